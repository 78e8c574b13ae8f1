"""How soon and how far: targets, runtimes to them, shares of what there is to gain, profiles.

No optimum of these problems is known, so that targets are run-length based, as COCO's can be (N. Hansen et al., *COCO:
a platform for comparing continuous optimizers in a black-box setting*, Optimization Methods and Software 36, 2021): the
losses that a reference has after so many evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_problem.study.results import Results
from llm_problem.suites.cards import all_cards

MARKS = (1, 2, 5)  # times powers of ten: evaluations whose losses are targets


@dataclass(frozen=True)
class Targets:
    """The targets of one problem.

    Attributes:
        budgets: (k,) evaluations, rising.
        losses: (k,) what the reference has after these, falling; all below f(0).
        reference: the loss that a share of 1 stands for.
        frozen: whether they are of the problem's published card, else of the study's own runs.
    """

    budgets: tuple[int, ...]
    losses: tuple[float, ...]
    reference: float
    frozen: bool


def targets(results: Results) -> dict[str, Targets]:
    """Of the problems' cards where all have one, else of the study: the best median of its optimizers at each mark.

    One kind for all, since a share of one reference says nothing beside a share of another.
    """
    published = {problem: _published(results.facts[problem]) for problem in results.problems}
    frozen = {problem: _frozen(card, results.f0(problem)) for problem, card in published.items() if card is not None}
    return frozen if len(frozen) == len(published) else {p: _of_study(results, p) for p in results.problems}


def _published(facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the problem's card had when the study made it, else what it has now."""
    if facts.get("targets") and facts.get("reference"):
        return facts
    card = all_cards()["problems"].get(facts["name"])
    return card if card is not None and card["fingerprint"] == facts["fingerprint"] else None


def _frozen(card: Mapping[str, Any], f0: float) -> Targets:
    pairs = sorted((int(number), float(loss)) for number, loss in card["targets"].items())
    return _different(pairs, f0, float(card["reference"]["loss"]), True)


def _of_study(results: Results, problem: str) -> Targets:
    f0 = results.f0(problem)
    names = [o for o in results.competitors if results.of(problem, o)]
    numbers = marks(results.budget)
    if not names:
        return Targets((), (), np.nan, False)
    best = np.min([np.median(results.best_at(problem, o, numbers), axis=0) for o in names], axis=0)
    return _different(list(zip(numbers.tolist(), best.tolist(), strict=True)), f0, float(best[-1]), False)


def _different(pairs: Sequence[tuple[int, float]], f0: float, reference: float, frozen: bool) -> Targets:
    kept: list[tuple[int, float]] = []
    for number, loss in pairs:
        if loss < (kept[-1][1] if kept else f0):
            kept.append((number, loss))
    numbers, losses = zip(*kept, strict=True) if kept else ((), ())
    return Targets(tuple(numbers), tuple(losses), reference, frozen)


def marks(budget: int) -> np.ndarray:
    """10, 20, 50, 100, … up to the budget, and the budget."""
    numbers = [mark * 10**power for power in range(1, 10) for mark in MARKS if mark * 10**power < budget]
    return np.array([*numbers, budget])


def shares(f0: float, reference: float, losses: np.ndarray) -> np.ndarray:
    """(f(0) − loss) / (f(0) − f(reference)): 0 at the pretrained model, 1 at the reference; NaN if it gains nothing."""
    if not reference < f0:
        return np.full(np.shape(losses), np.nan)
    return (f0 - np.minimum(losses, f0)) / (f0 - reference)


def expected_runtime(runtimes: np.ndarray, spent: np.ndarray) -> float:
    """ERT: evaluations of all runs until they reached the target or ended, over the runs that reached it.

    Args:
        runtimes: (n,) evaluations to the target, inf where it was not reached.
        spent: (n,) evaluations of each run.
    """
    reached = np.isfinite(runtimes)
    return float(np.where(reached, runtimes, spent).sum() / reached.sum()) if reached.any() else float("inf")


def ecdf(results: Results, optimizer: str, wanted: Mapping[str, Targets]) -> np.ndarray:
    """Share of (problem, target, run) reached within each number of `results.grid`; every problem counts the same."""
    parts = []
    for problem, found in wanted.items():
        if found.losses and results.of(problem, optimizer):
            times = np.concatenate([results.runtimes(problem, optimizer, loss) for loss in found.losses])
            parts.append((times[:, None] <= results.grid).mean(axis=0))
    return np.mean(parts, axis=0) if parts else np.full(len(results.grid), np.nan)


def profile_costs(results: Results, optimizers: Sequence[str], wanted: Mapping[str, Targets]) -> np.ndarray:
    """ERT (problem × target, optimizers) of the targets that somebody reached."""
    rows = [
        [
            expected_runtime(results.runtimes(problem, o, loss), results.spent(problem, o))
            if results.of(problem, o)
            else np.inf
            for o in optimizers
        ]
        for problem, found in wanted.items()
        for loss in found.losses
    ]
    costs = np.array(rows, dtype=float).reshape(-1, len(optimizers))
    return costs[np.isfinite(costs).any(axis=1)]


def performance_profile(costs: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """Share (optimizers, k) of rows whose cost is at most so many times the best one's (E. Dolan, J. Moré, 2002).

    Args:
        costs: (rows, optimizers), inf where there is none; each row has a finite one.
        ratios: (k,) of at least 1.
    """
    ratio = costs / costs.min(axis=1, keepdims=True)
    return (ratio[:, :, None] <= ratios).mean(axis=0)
