"""Checks of an optimizer's options: the value as it is used, or a ValueError that says what was expected."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem_adapters.base import is_integer, is_number


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`, one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return str(value)


def integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """`value`, an integer from `low` to `high` (None: no upper end)."""
    if not is_integer(value) or value < low or (high is not None and value > high):
        expected = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {expected}, got {value!r}")
    return int(value)


def number(name: str, value: Any, low: float, high: float = np.inf) -> float:
    """`value`, a finite number from `low` to `high`, both included."""
    if not is_number(value) or not low <= value <= high or not np.isfinite(value):
        expected = f"of at least {low}" if high == np.inf else f"from {low} to {high}"
        raise ValueError(f"{name} must be a finite number {expected}, got {value!r}")
    return float(value)


def between(name: str, value: Any, low: float, high: float = np.inf) -> float:
    """`value`, a number above `low` and below `high`."""
    if not is_number(value) or not low < value < high:
        expected = f"above {low}" if high == np.inf else f"above {low} and below {high}"
        raise ValueError(f"{name} must be a finite number {expected}, got {value!r}")
    return float(value)
