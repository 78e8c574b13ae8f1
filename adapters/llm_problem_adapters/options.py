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


def number(
    name: str, value: Any, low: float, high: float = np.inf, *, above: bool = False, below: bool = False
) -> float:
    """`value`, a finite number from `low` to `high`; `above` leaves `low` out, `below` leaves `high` out."""
    fits = is_number(value) and np.isfinite(value) and low <= value <= high
    if not fits or (above and value == low) or (below and value == high):
        least = f"above {low}" if above else f"of at least {low}"
        most = "" if high == np.inf else f" and below {high}" if below else f" and at most {high}"
        expected = f"from {low} to {high}" if most and not (above or below) else least + most
        raise ValueError(f"{name} must be a finite number {expected}, got {value!r}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """`value`, a finite number above 0."""
    return number(name, value, 0, above=True)


def fraction(name: str, value: Any) -> float:
    """`value`, a number above 0 and below 1."""
    return number(name, value, 0, 1, above=True, below=True)
