"""`python -m llm_problem_adapters.benchmarks`: the cost of `minimize`'s own books.

Takes the options of `python -m llm_problem.benchmarks`, whose sections measure the problem side.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from llm_problem.benchmarks.bookkeeping import POPULATION, bookkeeping
from llm_problem.benchmarks.report import Report
from llm_problem.benchmarks.runner import main as run_sections
from llm_problem.benchmarks.settings import Settings
from llm_problem_adapters.genetic_algorithm import GeneticAlgorithm
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.registry import make_optimizer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the section; returns the exit code."""
    return run_sections(
        arguments,
        prog="python -m llm_problem_adapters.benchmarks",
        sections={"bookkeeping": bookkeeping_section},
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
