"""The section `bookkeeping`: what a run costs beside its evaluations, on a problem whose losses are free.

This side of the house knows no optimizers: they come in as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import Settings
from llm_problem.benchmarks.timing import figure, interleave, spread
from llm_problem.models.cache import say

Run = Callable[["FreeProblem", int, int], object]  # problem, budget, seed: spends the budget

DIMENSION = 256
POPULATION = 50
BUDGET, QUICK_BUDGET = 5000, 500


class FreeProblem:
    """Zeros, at once."""

    name = "free"
    penalty = 1e9
    sigma = 1.0

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.evaluations = 0

    @property
    def x0(self) -> np.ndarray:
        return np.zeros(self.dimension)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(self.dimension, -5.0), np.full(self.dimension, 5.0)

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        """(n,) zeros; counts them."""
        self.evaluations += len(X)
        return np.zeros(len(X))


def bookkeeping(settings: Settings, runs: Mapping[str, Run]) -> Report:
    """Milliseconds per evaluation of each run, in turns; the first is the one that the others are parts of.

    Args:
        settings: turns and whether they are short.
        runs: by name.
    """
    budget = QUICK_BUDGET if settings.quick else BUDGET
    spent: dict[str, int] = {}

    def caller(name: str, run: Run) -> Callable[[int], None]:
        def call(repeat: int) -> None:
            problem = FreeProblem()
            run(problem, budget, repeat)
            spent[name] = problem.evaluations

        return call

    # One call is a whole run, which is long enough.
    taken = interleave({name: caller(name, run) for name, run in runs.items()}, settings.rounds, 0.0)
    seconds = {name: values / spent[name] for name, values in taken.items()}
    sheet = Sheet(f"Bookkeeping: ms an evaluation, d = {DIMENSION}, losses free", ("", "ms", "evaluations"))
    for name, values in seconds.items():
        sheet.rows.append((name, spread(1e3 * values), f"{spent[name]:,}"))
    whole, *parts = seconds
    for part in parts:
        difference = 1e3 * float(np.median(seconds[whole] - seconds[part]))
        sheet.notes.append(f"{whole} without {part}: {figure(difference)} ms")
    say("bookkeeping measured")
    return Report([sheet], {"dimension": DIMENSION, "budget": budget, "evaluations": spent, "seconds": seconds})
