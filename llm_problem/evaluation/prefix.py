"""The keys and values that stand in a cache at a prompt's places, for the layers that are run piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llm_problem.models.prompts import KeysAndValues
from llm_problem.subspaces.deltas import Delta, PrefixDelta


class PutPrefix:
    """One layer's part of a prefix.

    A layer that x does not move has one too if it stands above one that is moved: there the prompt's own hidden states
    are no longer the pretrained model's, and what its cache holds is.

    Args:
        cache: what the pretrained model keeps in this layer.
        order: of a head's numbers, for the keys.
        numbers: of the deltas that move it.
        dtype: of the layer's activations.
    """

    def __init__(self, cache: KeysAndValues, order: np.ndarray, numbers: Sequence[int], dtype: torch.dtype) -> None:
        keys, values = cache  # (shared, p, size)
        self._order = torch.from_numpy(order).to(keys.device)
        self._keys = keys[..., self._order].transpose(0, 1).to(dtype).contiguous()  # (p, shared, size)
        self._values = values.transpose(0, 1).to(dtype).contiguous()
        self._numbers = tuple(numbers)

    @property
    def moved(self) -> bool:
        """Whether x moves it."""
        return bool(self._numbers)

    def put(
        self, k: torch.Tensor, v: torch.Tensor, places: torch.Tensor, changes: Sequence[Delta], width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1 or width, T, shared, size) with the prefix in them; k and v may be overwritten."""
        keys, values = self._keys, self._values
        for number in self._numbers:
            delta = changes[number]
            assert isinstance(delta, PrefixDelta)
            keys = keys + delta.keys[..., self._order].transpose(1, 2).to(keys.dtype)  # (width, p, shared, size)
            values = values + delta.values.transpose(1, 2).to(values.dtype)
        if self._numbers and len(k) != width:
            k, v = (t.expand(width, -1, -1, -1).clone() for t in (k, v))
        k[:, places], v[:, places] = keys, values
        return k, v
