"""The section `precision`: bfloat16 beside float32, time and losses."""

from __future__ import annotations

import numpy as np

from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import Settings, describe
from llm_problem.benchmarks.timing import interleave, spread
from llm_problem.models.cache import say

POINTS = 8
DTYPES = ("float32", "bfloat16")


def precision(settings: Settings) -> Report:
    """bfloat16 beside float32: time, and how far the losses go apart."""
    k, task = settings.focus(), settings.label_task()
    problems = {dtype: settings.problem(task, k, dtype) for dtype in DTYPES}
    dimension = problems[DTYPES[0]].dimension
    X = np.random.default_rng(0).standard_normal((POINTS, dimension))
    losses = {dtype: problem.evaluate(X) for dtype, problem in problems.items()}
    calls = {
        dtype: (lambda repeat, evaluate=problem.evaluate: evaluate(X[repeat % POINTS][None, :]))
        for dtype, problem in problems.items()
    }
    seconds = interleave(calls, settings.rounds, settings.least)
    sheet = Sheet(
        f"Precision, last {k} layers: ms an evaluation",
        ("dtype", "ms", "float32 / it", f"|loss − float32's| at {POINTS} x: largest", "median", "evaluator"),
    )
    apart = {}
    for dtype, problem in problems.items():
        difference = np.abs(losses[dtype] - losses["float32"])
        apart[dtype] = float(difference.max())
        sheet.rows.append(
            (
                dtype,
                spread(1e3 * seconds[dtype]),
                spread(seconds["float32"] / seconds[dtype]),
                f"{difference.max():.1e}",
                f"{np.median(difference):.1e}",
                problem.card()["evaluator"].split(" ", 1)[0],
            )
        )
    sheet.notes.append(describe(problems[DTYPES[0]], settings.data, "sentiment"))
    say("precision measured")
    return Report([sheet], {"layers": k, "seconds": seconds, "losses": losses, "losses_apart": apart})
