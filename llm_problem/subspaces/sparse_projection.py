"""Sparse isometric projection (after Uni-LoRA: Li, Han, Su, Li, Cai & Ji 2025, arXiv:2506.00799): θ = θ0 + c P x.

Each of the D chosen entries belongs to one of d groups and takes the coordinate of its group: row i of P has a single
number, ± 1/√n_j in the column j of its group of n_j entries. So PᵀP = I, one coordinate reaches every layer, and
neither the memory nor the work depends on d.

Uni-LoRA makes the entries of LoRA's factors B and A of all layers from one vector, by a fixed random projection with
orthonormal columns. PEFT's UNILORA (read in release 0.21.2) deals the entries out to the vector's coordinates evenly
and at random and divides by √n_j, without signs. The product of two factors that are both linear in x is even in x and
flat at x = 0; so here such a projection makes the entries of the weights themselves, which is linear. Entries are dealt
out in the same way; the random signs are ours, so that a coordinate adds no common offset to all weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.targets import Target
from llm_problem.subspaces.deltas import Delta
from llm_problem.subspaces.draws import basis_generator
from llm_problem.subspaces.weight_projection import BoundWeightProjection, WeightProjection


@dataclass(frozen=True)
class SparseProjection(WeightProjection):
    """Search a subspace in which random groups of weight entries move together.

    Args:
        dimension: d, at least 1 and at most the number of chosen entries; P takes about 8 bytes for each of those.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: c, the length of a column; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).
    """

    kind: ClassVar[str] = "sparse-projection"

    def bytes_needed(self, size: int) -> int:
        return size * (4 + 4 + 8)  # group and value; the permutation while they are drawn

    def bind(self, model: LoadedModel, seed: int) -> BoundSparseProjection:
        return BoundSparseProjection(self, model, self.chosen(model), seed)


class BoundSparseProjection(BoundWeightProjection):
    """The group and the signed value of every entry, weight by weight."""

    def __init__(self, config: SparseProjection, model: LoadedModel, targets: list[Target], seed: int) -> None:
        super().__init__(config, model, targets)
        size = sum(self.sizes)
        rng = basis_generator(seed, _STREAM)
        group = np.empty(size, dtype=np.int32)
        group[rng.permutation(size)] = np.arange(size) % self.dimension  # sizes differ by one at most
        length = self.column / np.sqrt(np.bincount(group, minlength=self.dimension))  # (d,) of an entry
        value = length.astype(np.float32)[group]
        value[rng.integers(0, 2, size, dtype=np.uint8) == 0] *= -1
        ends = np.cumsum(self.sizes)[:-1]
        self.groups = [
            torch.from_numpy(part).to(like.device) for part, like in zip(np.split(group, ends), self.like, strict=True)
        ]
        self.values = [
            torch.from_numpy(part).to(like) for part, like in zip(np.split(value, ends), self.like, strict=True)
        ]

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return self.as_deltas(
            [X.to(v).index_select(1, group) * v for group, v in zip(self.groups, self.values, strict=True)]
        )

    def basis(self) -> Iterable[torch.Tensor]:
        for group, value in zip(self.groups, self.values, strict=True):
            yield group
            yield value


_STREAM = 0x5BA  # keeps this basis apart from other draws with the same seed
