"""Fastfood (Le, Sarlós & Smola 2013, ICML): a projection that behaves like a dense Gaussian one, in O(D) memory.

θ = θ0 + c P x, P the first D rows of blocks V = S H G Π H B / (‖g‖ √q) over each other, each q×q with q the power of
two from d on, and of each the first d columns: B random signs, H the Walsh–Hadamard matrix with entries ±1, Π a random
permutation, G a diagonal of Gaussian numbers g, and S a diagonal of lengths that give the rows of V those of a
Gaussian matrix (χ with q degrees of freedom). P is never built: P x takes O(D log d) operations and four numbers of
memory for each entry. Random subspaces of neural networks are made this way by Li, Farkhoor, Liu & Yosinski (2018,
arXiv:1804.08838) and, of language models, by Aghajanyan, Zettlemoyer & Gupta (2020, arXiv:2012.13255), there without S.
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
from llm_problem.subspaces.hadamard import walsh_hadamard
from llm_problem.subspaces.weight_projection import BoundWeightProjection, WeightProjection


@dataclass(frozen=True)
class Fastfood(WeightProjection):
    """Search a random subspace of the chosen weights, with a structured projection.

    Args:
        dimension: d, at least 1 and at most the number of chosen entries.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: c, the length of a column in root mean square over all draws; None makes E‖ΔW‖ at x ~ N(0, I) a set
            share of ‖W‖ (see `scale.py`).
    """

    kind: ClassVar[str] = "fastfood"

    def bytes_needed(self, size: int) -> int:
        q = _power_of_two(self.dimension)
        return -(-size // q) * q * (4 + 4 + 4 + 8)

    def bind(self, model: LoadedModel, seed: int) -> BoundFastfood:
        return BoundFastfood(self, model, self.chosen(model), seed)


class BoundFastfood(BoundWeightProjection):
    """The frozen diagonals and permutations of the blocks, each (blocks, q)."""

    def __init__(self, config: Fastfood, model: LoadedModel, targets: list[Target], seed: int) -> None:
        super().__init__(config, model, targets)
        size, q = sum(self.sizes), _power_of_two(self.dimension)
        blocks = -(-size // q)
        rng = basis_generator(seed, _STREAM)
        signs, gaussian, lengths = (np.empty((blocks, q), dtype=np.float32) for _ in range(3))
        order = np.empty((blocks, q), dtype=np.int64)
        for block in range(blocks):
            signs[block] = 2.0 * rng.integers(0, 2, q) - 1
            order[block] = rng.permutation(q)
            gaussian[block] = rng.standard_normal(q)
            # With ±1 in H, each row of H G Π H B is as long as √q ‖g‖.
            length = np.sqrt(q) * np.linalg.norm(gaussian[block].astype(np.float64))
            # Numbers of P near N(0, 1) make a column as long as √D.
            lengths[block] = np.sqrt(rng.chisquare(q, q)) / length * self.column / np.sqrt(size)
        # A transform adds up q numbers: in half precision that would be little more than noise.
        self.dtype = torch.promote_types(self.like[0].dtype, torch.float32)
        device = self.like[0].device
        self.order = torch.from_numpy(order).to(device)
        self.signs, self.gaussian, self.lengths = (
            torch.from_numpy(diagonal).to(device, self.dtype) for diagonal in (signs, gaussian, lengths)
        )

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        blocks, q = self.order.shape
        padded = torch.nn.functional.pad(X.to(self.dtype), (0, q - self.dimension))  # (n, q)
        y = walsh_hadamard(self.signs * padded[:, None])  # (n, blocks, q)
        y = y.gather(2, self.order.expand(len(X), blocks, q))
        y = walsh_hadamard(self.gaussian * y) * self.lengths
        return self.as_deltas(y.flatten(1)[:, : sum(self.sizes)].split(self.sizes, dim=1))

    def basis(self) -> Iterable[torch.Tensor]:
        yield from (self.signs, self.order, self.gaussian, self.lengths)


def _power_of_two(dimension: int) -> int:
    """The smallest power of two that is at least `dimension`."""
    return 1 << (dimension - 1).bit_length()


_STREAM = 0x5BF  # keeps this basis apart from other draws with the same seed
