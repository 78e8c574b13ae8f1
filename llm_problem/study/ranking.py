"""Who is better than whom: within a problem over seeds, and across problems.

J. Demšar, *Statistical comparisons of classifiers over multiple data sets*, JMLR 7, 2006 (Friedman's test with problems
as blocks); A. Benavoli, G. Corani & F. Mangili, *Should we really use post-hoc tests based on mean-ranks?*, JMLR 17,
2016 (pairs by Wilcoxon's signed ranks, since mean ranks let a pair's verdict depend on the others); R. Agarwal et al.,
*Deep reinforcement learning at the edge of the statistical precipice*, NeurIPS 2021 (interquartile mean, bootstrap over
the seeds of each problem).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from llm_problem.study.results import Results
from llm_problem.study.statistics import RankTest, holm, rank_test

FEWEST_SEEDS = 5  # below, samples are described and not tested
FEWEST_PROBLEMS = 6  # for Friedman's test
DIAGRAM_PROBLEMS = 10  # for a critical-difference diagram, whose pairs are corrected for their number
LEVEL = 0.05
DRAWS = 2_000
_STREAM = 0x1B07  # keeps these draws apart from others with the same seed


@dataclass(frozen=True)
class Pair:
    """Two optimizers on one problem: `test.effect` is the probability that the first one's loss is the smaller."""

    problem: str
    first: str
    second: str
    test: RankTest
    corrected: float  # p after Holm's correction for the pairs of the problem


def tested(results: Results, problem: str) -> list[str]:
    """The competitors with seeds enough.

    One whose runs do not differ between seeds is left out: repeating a run makes no sample of it.
    """
    return [
        o
        for o in results.competitors
        if len(results.of(problem, o)) >= FEWEST_SEEDS and not results.draws_nothing(problem, o)
    ]


def pairs(results: Results, problem: str) -> list[Pair]:
    """Every two of those that are tested, by Mann and Whitney's test of their best losses."""
    names = tested(results, problem)
    losses = {o: results.final(problem, o) for o in names}
    both = list(combinations(names, 2))
    tests = [rank_test(losses[first], losses[second]) for first, second in both]
    corrected = holm([test.p for test in tests]) if tests else np.empty(0)
    found = zip(both, tests, corrected.tolist(), strict=True)
    return [Pair(problem, first, second, test, p) for (first, second), test, p in found]


def too_few_seeds(results: Results) -> bool:
    """Whether no pair of any problem could come below `LEVEL`, even if no two runs overlapped."""
    seeds = len(results.study.seeds)
    together = [comb(len(tested(results, problem)), 2) for problem in results.problems]
    return any(together) and all(2 * count / comb(2 * seeds, seeds) > LEVEL for count in together if count)


def against_leader(results: Results, problem: str) -> dict[str, tuple[float, float | None]]:
    """Each competitor against the one with the lowest median of those that are tested: (A, p).

    A is the probability that its loss is the smaller; p, after Holm's correction, is None where its runs are one run.
    """
    names = tested(results, problem)
    if len(names) < 2:
        return {}
    leader = min(names, key=lambda o: float(np.median(results.final(problem, o))))
    found: dict[str, tuple[float, float | None]] = {}
    for pair in pairs(results, problem):
        if pair.first == leader:
            found[pair.second] = 1 - pair.test.effect, pair.corrected
        elif pair.second == leader:
            found[pair.first] = pair.test.effect, pair.corrected
    for o in results.competitors:
        if len(results.of(problem, o)) >= FEWEST_SEEDS and results.draws_nothing(problem, o):
            found[o] = rank_test(results.final(problem, o), results.final(problem, leader)).effect, None
    return found


@dataclass(frozen=True)
class Ranking:
    """Competitors over the problems that all of them have runs of.

    Attributes:
        problems, optimizers: which.
        ranks: (problems, optimizers) of the median best losses, 1 the smallest; ties share their mean.
        statistic, p: Friedman's test that they are all alike; NaN where there are too few problems or optimizers.
        together: (optimizers, optimizers) p-values of Wilcoxon's test of two, after Holm's correction; NaN as above.
    """

    problems: list[str]
    optimizers: list[str]
    ranks: np.ndarray
    statistic: float
    p: float
    together: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean ranks (optimizers,)."""
        return self.ranks.mean(axis=0) if len(self.ranks) else np.full(len(self.optimizers), np.nan)

    @property
    def tested(self) -> bool:
        return bool(np.isfinite(self.p))


def ranking(results: Results, evaluations: int | None = None) -> Ranking:
    """Ranks after so many evaluations (the budget, by default), and the tests there are problems enough for."""
    from scipy.stats import friedmanchisquare, rankdata, wilcoxon

    names, problems = results.competitors, results.complete()
    medians = results.medians(problems, names, evaluations).reshape(len(problems), len(names))
    ranks = rankdata(medians, axis=1) if medians.size else np.empty((0, len(names)))
    together = np.full((len(names), len(names)), np.nan)
    statistic = p = float("nan")
    if len(problems) >= FEWEST_PROBLEMS and len(names) >= 3 and np.ptp(ranks):
        statistic, p = (float(value) for value in friedmanchisquare(*ranks.T))
        both = list(combinations(range(len(names)), 2))
        # Of logarithms of ratios to f(0), since problems' losses have different units.
        level = np.log(np.maximum(medians, 1e-300) / np.array([[results.f0(problem)] for problem in problems]))
        alike = [bool((level[:, i] == level[:, j]).all()) for i, j in both]
        values = [
            1.0 if same else float(wilcoxon(level[:, i], level[:, j]).pvalue)
            for (i, j), same in zip(both, alike, strict=True)
        ]
        for (i, j), value in zip(both, holm(values).tolist(), strict=True):
            together[i, j] = together[j, i] = value
        np.fill_diagonal(together, 1.0)
    return Ranking(problems, names, ranks, statistic, p, together)


def correlations(results: Results) -> tuple[list[str], np.ndarray]:
    """Spearman's rank correlation between problems of how the competitors come out on them.

    Returns:
        The problems on which all competitors ran, and the matrix (problems, problems); NaN with fewer than three
        competitors, or where all come out alike.
    """
    from scipy.stats import rankdata

    problems, names = results.complete(), results.competitors
    if len(names) < 3 or not problems:
        return problems, np.full((len(problems), len(problems)), np.nan)
    ranks = rankdata(results.medians(problems, names), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return problems, np.atleast_2d(np.corrcoef(ranks))


def interquartile_mean(values: np.ndarray) -> float:
    """The mean of the middle half."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.ravel(values), 0.25))


def bootstrap(
    samples: Sequence[np.ndarray], seed: int = 0, draws: int = DRAWS, level: float = 0.95
) -> tuple[float, float, float]:
    """The interquartile mean of all values, and its percentile interval when each problem's runs are drawn anew.

    Args:
        samples: one array of values a problem.
        seed: of the draws.
        draws: how many.
        level: of the interval.
    """
    from scipy.stats import trim_mean

    kept = [np.asarray(sample, dtype=float) for sample in samples if len(sample)]
    if not kept:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAM])))
    drawn = [sample[rng.integers(0, len(sample), (draws, len(sample)))] for sample in kept]  # each (draws, n)
    means = trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return interquartile_mean(np.concatenate(kept)), float(low), float(high)
