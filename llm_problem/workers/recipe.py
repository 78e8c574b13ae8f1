"""What a worker builds the problem from: its description, never its model."""

from __future__ import annotations

import pickle
from typing import Any


def recipe_of(problem: Any, basis: str | None = None) -> bytes:
    """The pickle of a problem, which of a `Problem` is its description.

    Args:
        problem: any that can be pickled.
        basis: a file to take the frozen arrays of its subspace from.

    Raises:
        ValueError: it cannot be pickled.
    """
    try:
        if not hasattr(problem, "spec") or not hasattr(problem, "evaluator"):
            return pickle.dumps(problem)
        build, (text, where, *rest) = problem.__reduce__()
        return pickle.dumps(_Recipe(build, (text, {**where, **_same_place(problem, where, basis)}, *rest)))
    except Exception as error:
        raise ValueError(
            f"workers need a problem that another process can be sent, and {problem!r} cannot be pickled: {error}"
        ) from error


def _same_place(problem: Any, where: dict[str, Any], basis: str | None) -> dict[str, Any]:
    """Memory that depends on what is free at the moment would decide how weights are kept, and so the last bits."""
    same: dict[str, Any] = {} if basis is None else {"basis": basis}
    memory = getattr(problem.evaluator, "memory", None)
    if where["memory_limit"] is None and memory is not None:
        same["memory_limit"] = memory(problem.batch("search")).get("limit")
    return same


class _Recipe:
    """Pickles as a call."""

    def __init__(self, build: Any, arguments: tuple) -> None:
        self._call = build, arguments

    def __reduce__(self) -> tuple:
        return self._call
