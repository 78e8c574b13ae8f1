"""`python -m llm_problem_adapters.benchmarks`: the cost of `minimize`'s own books, and what Nevergrad's `minimize`
gains by evaluating its points together.

Takes the options of `python -m llm_problem.benchmarks`, whose sections measure the problem side.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.benchmarks.bookkeeping import POPULATION, bookkeeping
from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.runner import main as run_sections
from llm_problem.benchmarks.settings import Settings
from llm_problem.benchmarks.timing import figure, interleave, spread
from llm_problem_adapters.genetic_algorithm import GeneticAlgorithm
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.registry import make_optimizer

TOGETHER = "tiny-gpt2-prose-lora-xs-d32-v1"
WORKERS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run sections; returns the exit code."""
    return run_sections(
        arguments,
        prog="python -m llm_problem_adapters.benchmarks",
        sections={"bookkeeping": bookkeeping_section, "executor": executor_section},
        needs_model=False,
    )


def bookkeeping_section(settings: Settings) -> Report:
    """The genetic algorithm with a population of 50, in `minimize` and on its own."""
    return bookkeeping(
        settings,
        {
            f"minimize, genetic algorithm, population {POPULATION}": with_books,
            "its ask and tell": ask_and_tell,
        },
    )


def executor_section(settings: Settings) -> Report:
    """Nevergrad's DE on a bundled problem, with and without an executor that evaluates 16 points together."""
    problem = lp.make(TOGETHER)
    budget = WORKERS * (2 if settings.quick else 20)
    calls = {
        "one at a time": lambda repeat: nevergrad_run(problem, budget, repeat, None),
        f"executor(batch={WORKERS})": lambda repeat: nevergrad_run(problem, budget, repeat, problem.executor(WORKERS)),
    }
    seconds = {name: taken / budget for name, taken in interleave(calls, settings.rounds, 0.0).items()}
    sheet = Sheet(f"Nevergrad's DE, {WORKERS} workers, on {TOGETHER}: ms an evaluation", ("", "ms"))
    for name, values in seconds.items():
        sheet.rows.append((name, spread(1e3 * values)))
    alone, together = seconds.values()
    sheet.notes.append(f"turn by turn, together is {figure(float(np.median(alone / together)))} times as fast")
    return Report([sheet], {"problem": TOGETHER, "workers": WORKERS, "budget": budget, "seconds": seconds})


def nevergrad_run(problem: Any, budget: int, seed: int, executor: Any) -> float:
    """A whole run; the loss of what it recommends."""
    import nevergrad as ng

    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(seed)
    optimizer = ng.optimizers.DE(f.parametrization, budget=budget, num_workers=WORKERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ng.errors.InefficientSettingsWarning)  # workers without an executor
        return optimizer.minimize(f, executor=executor).loss


def with_books(problem: Any, budget: int, seed: int) -> None:
    """A whole run, with nothing recorded on disk."""
    minimize(problem, GeneticAlgorithm(population=POPULATION), budget=budget, seed=seed)


def ask_and_tell(problem: Any, budget: int, seed: int) -> None:
    """The same optimizer without `minimize`."""
    optimizer = make_optimizer(
        "genetic-algorithm",
        dimension=problem.dimension,
        x0=problem.x0,
        bounds=problem.bounds,
        sigma=problem.sigma,
        horizon=budget,
        seed=seed,
        population=POPULATION,
    )
    while problem.evaluations < budget:
        X = optimizer.ask(budget - problem.evaluations)
        optimizer.tell(X, problem.evaluate(X))


if __name__ == "__main__":
    sys.exit(main())
