"""What counts as a point: an array of numbers."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np


def float_array(name: str, values: Any) -> np.ndarray:
    """`values` as float64, of whatever shape; None, which numpy would take for NaN, and words are no numbers.

    Raises:
        ValueError: something in it is no number.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        for item in array.ravel().tolist():
            if not isinstance(item, numbers.Real):
                raise ValueError(f"{name} must hold numbers, got {item!r}")
    return array.astype(np.float64, copy=False)
