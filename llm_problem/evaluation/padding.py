"""Sequences of different lengths as a few padded rectangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ALWAYS_TOGETHER = 256  # tokens: a pass over fewer costs what starting it costs, however many they are
WASTE = 0.25  # of the real tokens, how much padding a larger rectangle may have


def buckets(lengths: np.ndarray, limit: int) -> list[np.ndarray]:
    """Which things to pad together: numbers of things of similar lengths, every one once.

    Args:
        lengths: (n, k) int, the k lengths of each thing; similar in the last of them first.
        limit: tokens of a bucket with its padding (or one thing, where that is longer).
    """
    order = np.lexsort(lengths.T)
    found: list[np.ndarray] = []
    start, real, longest = 0, 0, np.zeros(lengths.shape[1], dtype=np.int64)
    for end, number in enumerate(order):
        wider = np.maximum(longest, lengths[number])
        area = int((end - start + 1) * wider.sum())
        filled = real + int(lengths[number].sum())
        if end > start and (area > limit or (area > ALWAYS_TOGETHER and area > (1 + WASTE) * filled)):
            found.append(order[start:end])
            start, real, wider = end, 0, lengths[number]
            filled = int(lengths[number].sum())
        real, longest = filled, wider
    if start < len(order):
        found.append(order[start:])
    return found


def padded(sequences: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(ids (b, t) int64 with zeros on the right, mask (b, t) int64, one where a token is real)."""
    width = max(s.size for s in sequences)
    ids = np.zeros((len(sequences), width), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : sequence.size] = sequence
        mask[row, : sequence.size] = 1
    return ids, mask
