"""Objectives that raise, return what is no loss, hang, or are killed, through every kind of adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem_adapters.faults.figures import Figure
from llm_problem_adapters.faults.objectives import VALUES, Misbehaving
from llm_problem_adapters.minimize import minimize

KINDS = ("genetic-algorithm", "cma", "pymoo:PSO", "nevergrad:DE", "nevergrad:Cobyla", "optuna:TPESampler")
BUDGET = 40
STATUS = {
    **dict.fromkeys(("NaN", "+inf", "-inf"), "non-finite"),
    **dict.fromkeys(("None", "a string", "a complex number", "raises", "is killed", "takes memory"), "failed"),
    "hangs": "timed out",
}
LIMITS: dict[str, dict[str, Any]] = {
    "hangs": {"evaluation_seconds": 5.0},
    "is killed": {"apart": True},
    "takes memory": {"memory": 3 * 2**30},
}


def misbehaving(folder: Path, hows: Sequence[str], kinds: Sequence[str] = KINDS, one_in: int = 3) -> list[Figure]:
    """One figure for each way to misbehave: over the adapters, what was recorded of it; `one_in` points misbehaves."""
    figures = []
    for how in hows:
        counts, wrong = Counter[str](), []
        for kind in kinds:
            path = folder / f"{how}-{kind}.sqlite".replace(":", "-").replace(" ", "-")
            problem = Misbehaving(how, one_in)
            settings: Any = {"seed": 1, "record": path, "errors": "record", "keep_x": True}
            result = minimize(problem, kind, BUDGET, limits=LIMITS.get(how), **settings)
            spoilt = np.array([problem.spoilt(x) for x in result.X])  # type: ignore[union-attr]
            again = minimize(problem, kind, BUDGET, resume=True, **settings)
            counts["evaluations"] += result.evaluations
            counts["misbehaved"] += int(spoilt.sum())
            kept = (
                (result.evaluations == BUDGET or result.stop_reason != "budget")
                and (result.status[spoilt] == STATUS[how]).all()
                and (result.status[~spoilt] == "ok").all()
                and np.isfinite(result.best_loss)
                and not problem.spoilt(result.best_x)
                and not problem.spoilt(result.x)
                and again.losses.tobytes() == result.losses.tobytes()
            )
            wrong += [] if kept else [kind]
        tried = f"{counts['misbehaved']} of {counts['evaluations']} evaluations, {len(kinds)} adapters"
        found = f"each recorded once, as {STATUS[how]!r}, never the best; the searches end"
        found += f"; NOT with {', '.join(wrong)}" if wrong else ""
        figures.append(
            Figure(f"an objective that {'returns ' + how if how in VALUES else how}", tried, found, not wrong)
        )
    return figures
