"""Ranks and tests, against scipy called by hand, scikit-posthocs where it is installed, and counting."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from llm_problem.study import ranking as rk
from llm_problem.study.figures.ranks import cliques
from llm_problem.study.results import read
from tests.llm_problem.study.made_studies import made_study

NAMES = ["random-search", "genetic-algorithm", "cma", "adam"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "made"
    made_study(path, optimizers=NAMES, problems=7, seeds=6, budget=40, gradients=["adam"], left_out=[0])
    found = read(path)
    rng = np.random.default_rng(5)  # so that optimizers are not in one order everywhere
    for runs in found.finished.values():
        shift = float(rng.uniform(-0.5, 0.5))
        for run in runs:
            run.improvements = [(number, loss + shift + 0.6) for number, loss in run.improvements]
    return found


def test_ranks_are_of_medians_over_complete_problems_without_references(results):
    found = rk.ranking(results)
    assert found.optimizers == ["random-search", "genetic-algorithm", "cma"]
    assert found.problems == results.problems  # one run is missing, and others of its kind are there
    for row, problem in zip(found.ranks, found.problems, strict=True):
        medians = [np.median([run.improvements[-1][1] for run in results.of(problem, o)]) for o in found.optimizers]
        np.testing.assert_array_equal(row, 1 + np.argsort(np.argsort(medians)))


def test_friedman_and_wilcoxon_are_those_of_scipy(results):
    found = rk.ranking(results)
    medians = results.medians(found.problems, found.optimizers)
    statistic, p = stats.friedmanchisquare(*medians.T)
    assert (found.statistic, found.p) == pytest.approx((statistic, p))
    level = np.log(medians / 2.0)
    both = list(combinations(range(3), 2))
    raw = {pair: stats.wilcoxon(*level.T[list(pair)]).pvalue for pair in both}
    running = 0.0
    for step, pair in enumerate(sorted(both, key=raw.get)):
        running = max(running, min(1.0, raw[pair] * (3 - step)))
        assert found.together[pair] == found.together[pair[::-1]] == pytest.approx(running)


def test_the_posthoc_matrix_is_that_of_scikit_posthocs(results):
    posthocs = pytest.importorskip("scikit_posthocs")
    found = rk.ranking(results)
    level = np.log(results.medians(found.problems, found.optimizers) / 2.0)
    theirs = posthocs.posthoc_wilcoxon(list(level.T), p_adjust="holm").to_numpy()
    np.testing.assert_allclose(found.together, theirs, rtol=1e-9)


@pytest.mark.parametrize(("problems", "seeds"), [(3, 6), (7, 2)])
def test_little_is_described_and_not_tested(tmp_path, problems, seeds):
    made_study(tmp_path / "few", optimizers=NAMES[:3], problems=problems, seeds=seeds)
    found = read(tmp_path / "few")
    ranks = rk.ranking(found)
    assert ranks.tested == (problems >= rk.FEWEST_PROBLEMS)
    assert len(ranks.mean) == 3 and np.isfinite(ranks.mean).all()
    tested = [rk.pairs(found, problem) for problem in found.problems]
    assert all(len(pairs) == (3 if seeds >= rk.FEWEST_SEEDS else 0) for pairs in tested)


def test_pairs_say_who_is_lower_and_how_often(results):
    problem = results.problems[1]
    for pair in rk.pairs(results, problem):
        first, second = results.final(problem, pair.first), results.final(problem, pair.second)
        lower = np.mean([(a < b) + 0.5 * (a == b) for a in first for b in second])
        assert pair.test.effect == pytest.approx(lower)
        assert pair.test.p <= pair.corrected <= 1


def test_correlations_are_spearmans(results):
    problems, matrix = rk.correlations(results)
    medians = results.medians(problems, results.competitors)
    for i, j in combinations(range(len(problems)), 2):
        assert matrix[i, j] == pytest.approx(stats.spearmanr(medians[i], medians[j]).statistic)


def test_interquartile_mean_is_the_mean_of_the_middle_half():
    assert rk.interquartile_mean(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_bootstrap_intervals_hold_the_mean_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for trial in range(200):
        samples = [rng.normal(0.5, 0.1, 12) for _ in range(4)]
        value, low, high = rk.bootstrap(samples, seed=trial, draws=400)
        assert low <= value <= high
        held += low <= 0.5 <= high
    assert 0.85 <= held / 200 <= 0.99  # percentile intervals of few values are a little narrow


def test_bootstrap_draws_seeds_and_not_problems():
    value, low, high = rk.bootstrap([np.full(5, 0.1), np.full(5, 0.9)])
    assert value == low == high == pytest.approx(0.5)


def test_cliques_join_neighbours_that_do_not_differ():
    means = np.array([3.0, 1.0, 2.0, 4.0])
    together = np.ones((4, 4))
    together[1, 3] = together[3, 1] = together[1, 0] = together[0, 1] = 0.01
    assert cliques(means, together) == [(1.0, 2.0), (2.0, 4.0)]
    assert cliques(means, np.ones((4, 4))) == [(1.0, 4.0)]
    assert cliques(means, np.eye(4)) == []
