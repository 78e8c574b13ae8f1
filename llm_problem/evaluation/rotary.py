"""Rotary positions (Su et al. 2021, arXiv:2104.09864) as one multiplication by complex numbers."""

from __future__ import annotations

import numpy as np
import torch


def turn(x: torch.Tensor, by: torch.Tensor, rotary: int) -> None:
    """Rotate, in place, the pairs of the first `rotary` numbers of x (…, size) by the complex `by` (…, rotary / 2)."""
    torch.view_as_complex(x[..., :rotary].unflatten(-1, (-1, 2))).mul_(by)


def head_order(size: int, rotary: int) -> np.ndarray:
    """Order of a head's numbers in which those that are turned together are neighbours.

    Rotary models turn number i with number i + rotary / 2 (Su et al. 2021, arXiv:2104.09864, in the half-split layout
    that transformers uses). Queries and keys in one other order give the same scores, and neighbours make a complex
    number, whose multiplication is one pass over the memory.
    """
    half = rotary // 2
    pairs = np.stack([np.arange(half), np.arange(half) + half], axis=1).ravel()
    return np.concatenate([pairs, np.arange(2 * half, size)])


def turns(cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Complex (T, rotary / 2) from the cosines and sines (1, T, rotary) that a model computes for its positions."""
    half, dtype = cos.shape[-1] // 2, torch.float64 if cos.dtype == torch.float64 else torch.float32
    return torch.complex(cos[0, :, :half].to(dtype), sin[0, :, :half].to(dtype))
