"""What counts as a point, or as many: an array of numbers, of the right shape."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

# Stands, in another library's hands, for the constraint values of a point whose loss is not finite: it comes last.
BROKEN = 1e9


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


def candidates(X: Any, dimension: int) -> np.ndarray:
    """X as (n, d) float64.

    Raises:
        ValueError: another shape, or something in it is no number.
    """
    array = float_array("X", X)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise ValueError(f"X must have shape (n, {dimension}), got {array.shape}")
    return array
