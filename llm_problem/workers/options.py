"""What a pool may be asked for, checked without torch, which a driver of other problems need not have."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def count(name: str, value: Any) -> int:
    """`value` as an int of at least 1.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def seconds(name: str, value: Any) -> float:
    """`value` as a finite number above 0.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)
