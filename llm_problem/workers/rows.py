"""What a pool says of points, as the arrays that a problem returns.

An evaluation that was given up has no value, as one whose loss is not finite, and a status that says why: other
libraries' loops deal with both in one way. What a problem raises is raised, as without workers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from llm_problem.workers.errors import GivenUp


def as_row(problem: Any, method: str, outcome: Any) -> Any:
    """One point's part of what `problem.method` returns, a method of many points.

    Raises:
        Exception: what the evaluation ended with, but for `GivenUp`.
    """
    if not isinstance(outcome, Exception):
        return outcome
    if not isinstance(outcome, GivenUp):
        raise outcome
    if method == "evaluate":
        return np.nan
    if method == "race":
        return np.nan, outcome.status
    objectives, constraints = getattr(problem, "objectives", ("loss",)), getattr(problem, "constraints", ())
    return np.full(len(objectives), np.nan), np.full(len(constraints), np.nan), outcome.status


def as_arrays(rows: Iterable[Any]) -> tuple[np.ndarray, ...]:
    """The parts of n rows (`as_row`), each as an array (n, …): of `evaluate_all` F (n, m), G (n, c), status (n,)."""
    return tuple(np.array(part) for part in zip(*rows, strict=True))
