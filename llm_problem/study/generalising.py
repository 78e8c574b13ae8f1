"""What a lower search loss is worth on examples that no optimizer saw."""

from __future__ import annotations

import numpy as np

from llm_problem.study.results import Results
from llm_problem.study.runs import Ended
from llm_problem.study.tables import Table

METRIC = "loss"  # which every task has, and which is smaller for a better model


def by_problem(results: Results) -> Table:
    """A problem a row: test losses of the competitors' recommended points, and whether they follow the search losses.

    "correlation" is Spearman's over all runs of the best search loss with the test loss: 1 where a better search is a
    better model, −1 where it is a worse one; None where either does not vary.
    """
    rows = []
    for problem in results.problems:
        before = _before(results, problem)
        names = [o for o in results.competitors if len(_test_losses(results, problem, o))]
        if before is None or not names:
            continue
        losses = np.concatenate([_test_losses(results, problem, o) for o in names])
        medians = [float(np.median(_test_losses(results, problem, o))) for o in names]
        best = int(np.argmin(medians))
        searched = np.concatenate([_search_losses(results, problem, o) for o in names])
        below = int((losses < before).sum())
        rows.append((problem, before, medians[best], names[best], below, len(losses), _spearman(searched, losses)))
    return Table(("problem", "pretrained", "lowest median", "optimizer", "runs below", "runs", "correlation"), rows)


def by_optimizer(results: Results) -> Table:
    """An optimizer a row: on how many problems its median test loss is below the pretrained model's.

    "change" is the median over problems of that median over the pretrained model's loss, minus 1: −0.02 is 2% lower.
    """
    rows = []
    for optimizer in results.optimizers:
        ratios = []
        for problem in results.problems:
            before, losses = _before(results, problem), _test_losses(results, problem, optimizer)
            if before is not None and len(losses):
                ratios.append(float(np.median(losses)) / before)
        if ratios:
            rows.append((optimizer, sum(ratio < 1 for ratio in ratios), len(ratios), float(np.median(ratios)) - 1))
    return Table(("optimizer", "better on", "problems", "change"), rows)


def _before(results: Results, problem: str) -> float | None:
    found: float | None = results.facts[problem]["pretrained"].get("test", {}).get(METRIC)
    return found


def _test_losses(results: Results, problem: str, optimizer: str) -> np.ndarray:
    return np.array([r.held_out["test"][METRIC] for r in results.of(problem, optimizer) if _tested(r)])


def _search_losses(results: Results, problem: str, optimizer: str) -> np.ndarray:
    final = results.final(problem, optimizer)
    return np.array([x for x, r in zip(final, results.of(problem, optimizer), strict=True) if _tested(r)])


def _tested(run: Ended) -> bool:
    return run.held_out.get("test", {}).get(METRIC) is not None


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    from scipy.stats import spearmanr

    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(spearmanr(first, second).statistic)
