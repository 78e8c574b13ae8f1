"""The fast Walsh–Hadamard transform."""

from __future__ import annotations

import torch


def walsh_hadamard(x: torch.Tensor) -> torch.Tensor:
    """x H along the last axis, H the symmetric Hadamard matrix of Sylvester's order with entries ±1, so H H = d I.

    Args:
        x: (…, d), d a power of two.

    Returns:
        (…, d), a new tensor; differentiable.

    Raises:
        ValueError: d is no power of two.
    """
    d = x.shape[-1]
    if d < 1 or d & (d - 1):
        raise ValueError(f"the last axis must have a power of two of numbers, got {d}")
    half = 1
    y = x.clone() if d == 1 else x
    while half < d:
        first, second = y.unflatten(-1, (-1, 2, half)).unbind(-2)  # (…, d / 2 half, half) each
        y = torch.stack((first + second, first - second), dim=-2).flatten(-3)
        half *= 2
    return y
