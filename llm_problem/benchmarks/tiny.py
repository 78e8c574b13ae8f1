"""The section `tiny`: the registered problems on the bundled models."""

from __future__ import annotations

from typing import Any

import llm_problem as lp
from llm_problem.benchmarks.contestants import OURS, POPULATION, ours
from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import Settings
from llm_problem.benchmarks.timing import race, spread
from llm_problem.models.cache import say

POPULATION_OF_TINY = 64


def tiny(settings: Settings) -> Report:
    """Each registered problem on a bundled model, one at a time and in populations."""
    sheet = Sheet(
        "Bundled models: ms an evaluation",
        ("problem", f"in {POPULATION_OF_TINY}s", "one at a time", "one / population", "losses apart", "evaluator"),
    )
    rows: list[dict[str, Any]] = []
    for name in lp.list_problems("tiny*"):
        problem = lp.make(name)
        contestants = [ours(problem), ours(problem, POPULATION_OF_TINY)]
        outcome = race(contestants, problem.dimension, settings.rounds, settings.least)
        evaluator = problem.card()["evaluator"]
        sheet.rows.append(
            (
                name,
                spread(outcome.milliseconds(POPULATION)),
                spread(outcome.milliseconds(OURS)),
                spread(outcome.ratio(OURS, POPULATION)),
                f"{outcome.losses_apart:.1e}",
                evaluator.split(" ", 1)[0],
            )
        )
        rows.append(
            {
                "problem": name,
                "evaluator": evaluator,
                "seconds": outcome.seconds,
                "losses_apart": outcome.losses_apart,
            }
        )
        say(f"{name} measured")
    return Report([sheet], {"population": POPULATION_OF_TINY, "rows": rows})
