"""Keys and values of rows of different lengths, side by side: their ends stand together, shorter rows start later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_problem.models.prompts import KeysAndValues


@dataclass(frozen=True, eq=False)
class ReadRows:
    """Rows that were read together, padded on the right.

    `rows` (b,) are their numbers, `lengths` (b,) their tokens; `layers` holds keys and values of each layer, each
    (b, shared heads, t, size) with t the longest; `logits` (b, V) are those of what comes next.
    """

    rows: np.ndarray
    lengths: np.ndarray
    layers: list[KeysAndValues]
    logits: torch.Tensor


def plain_layers(name: str, layers: Sequence[Any], tokens: int) -> list[KeysAndValues]:
    """What some layers of a cache hold.

    Raises:
        ValueError: something else than a key and a value of every token.
    """
    kept = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in layers]
    if not all(
        isinstance(tensor, torch.Tensor) and tensor.ndim == 4 and tensor.shape[2] == tokens
        for pair in kept
        for tensor in pair
    ):
        raise ValueError(
            f"{name} does not keep a key and a value of every token in every layer, which texts are written with here"
        )
    return kept  # type: ignore[return-value]


def side_by_side(parts: Sequence[ReadRows]) -> list[KeysAndValues]:
    """Keys and values of all rows, (n, shared heads, longest, size), zeros before those of a shorter row."""
    n, longest = sum(part.rows.size for part in parts), max(int(part.lengths.max()) for part in parts)
    if len(parts) == 1 and (parts[0].lengths == longest).all() and (np.diff(parts[0].rows) == 1).all():
        return parts[0].layers
    found: list[KeysAndValues] = []
    for pieces in zip(*(part.layers for part in parts), strict=True):
        both = tuple(pieces[0][k].new_zeros(n, *_shape(pieces[0][k], longest)) for k in (0, 1))
        for part, piece in zip(parts, pieces, strict=True):
            for length in np.unique(part.lengths).tolist():
                here = np.flatnonzero(part.lengths == length)
                rows = torch.from_numpy(part.rows[here])
                for whole, some in zip(both, piece, strict=True):
                    whole[rows, :, longest - length :] = some[torch.from_numpy(here), :, :length]
        found.append((both[0], both[1]))
    return found


def _shape(tensor: torch.Tensor, tokens: int) -> tuple[int, int, int]:
    return tensor.shape[1], tokens, tensor.shape[3]
