"""Runtimes, targets and shares, against counting by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llm_problem.study import attainment as at
from llm_problem.study.results import read
from tests.llm_problem.study.made_studies import made_study

RUNTIMES = st.lists(st.one_of(st.integers(1, 100), st.just(np.inf)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "made"
    made_study(path, optimizers=["random-search", "genetic-algorithm", "cma"], problems=3, seeds=4, budget=200)
    return read(path)


def curve(run, budget):
    """Best loss after 1, 2, … evaluations, by walking along."""
    found, best, steps = [], np.inf, dict(run.improvements)
    for number in range(1, budget + 1):
        best = steps.get(number, best)
        found.append(best)
    return np.array(found)


def test_best_losses_after_any_number_of_evaluations(results):
    for problem in results.problems:
        for optimizer in results.optimizers:
            table = results.best_at(problem, optimizer, np.arange(1, results.budget + 1))
            for row, run in zip(table, results.of(problem, optimizer), strict=True):
                np.testing.assert_array_equal(row, curve(run, results.budget))


def test_runtimes_are_the_first_evaluation_at_or_below_the_target(results):
    problem = results.problems[0]
    for optimizer in results.optimizers:
        for target in (1.9, 1.0, 0.3, -1.0):
            for found, run in zip(
                results.runtimes(problem, optimizer, target), results.of(problem, optimizer), strict=True
            ):
                below = np.flatnonzero(curve(run, results.budget) <= target)
                assert found == (below[0] + 1 if below.size else np.inf)


@given(runtimes=RUNTIMES, budget=st.integers(100, 200))
def test_ert_is_all_evaluations_over_all_successes(runtimes, budget):
    total, successes = 0, 0
    for time in runtimes:
        total += budget if np.isinf(time) else time
        successes += not np.isinf(time)
    found = at.expected_runtime(np.array(runtimes), np.full(len(runtimes), budget))
    assert found == pytest.approx(total / successes if successes else np.inf)


def test_targets_of_a_study_are_the_lowest_medians_and_fall(results):
    for problem, found in at.targets(results).items():
        assert not found.frozen
        assert list(found.losses) == sorted(found.losses, reverse=True) and found.losses[0] < results.f0(problem)
        for number, loss in zip(found.budgets, found.losses, strict=True):
            medians = [np.median(results.best_at(problem, o, number)) for o in results.optimizers]
            assert loss == min(medians)
        assert found.reference == found.losses[-1] and found.budgets[-1] == results.budget


def test_targets_of_cards_are_taken_where_all_problems_have_them(results):
    card = {"targets": {"10": 1.5, "100": 1.5, "20": 1.8, "1000": 0.4}, "reference": {"loss": 0.4}}
    for problem in results.problems:
        results.facts[problem].update(card)
    found = at.targets(results)
    for problem in results.problems:
        results.facts[problem].update(targets=None, reference=None)
    for each in found.values():
        assert (each.budgets, each.losses) == ((10, 1000), (1.5, 0.4))  # 1.8 and the second 1.5 are reached before
        assert each.frozen and each.reference == 0.4


def test_ecdf_counts_targets_reached(results):
    wanted = at.targets(results)
    for optimizer in results.optimizers:
        curves = {p: [curve(run, results.budget) for run in results.of(p, optimizer)] for p in results.problems}
        for place in (0, 40, len(results.grid) - 1):
            number = results.grid[place]
            shares = [
                np.mean([c[number - 1] <= loss for c in curves[p] for loss in found.losses])
                for p, found in wanted.items()
            ]
            assert at.ecdf(results, optimizer, wanted)[place] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize(
    ("loss", "share"), [(2.0, 0.0), (3.0, 0.0), (1.0, 0.5), (0.0, 1.0), (-1.0, 1.5), (np.inf, 0.0)]
)
def test_shares_go_from_the_pretrained_model_to_the_reference(loss, share):
    assert at.shares(2.0, 0.0, np.array([loss])) == pytest.approx([share])


def test_a_reference_that_gains_nothing_gives_no_share():
    assert np.isnan(at.shares(2.0, 2.0, np.array([1.0]))).all()


@given(costs=arrays.arrays(float, (5, 3), elements=st.floats(1, 1e6)))
def test_profiles_rise_to_one_and_begin_with_the_wins(costs):
    profile = at.performance_profile(costs, np.array([1.0, 2.0, 10.0, 1e7]))
    wins = [np.mean([row[k] == row.min() for row in costs]) for k in range(3)]
    np.testing.assert_allclose(profile[:, 0], wins)
    assert (np.diff(profile) >= 0).all() and (profile[:, -1] == 1).all()


@pytest.mark.parametrize(
    ("budget", "marks"), [(1000, [10, 20, 50, 100, 200, 500, 1000]), (60, [10, 20, 50, 60]), (7, [7])]
)
def test_marks_end_with_the_budget(budget, marks):
    assert at.marks(budget).tolist() == marks
