"""Random subspace (Li, Farkhoor, Liu & Yosinski 2018, arXiv:1804.08838): θ = θ0 + P x with a frozen Gaussian P.

The columns of P are drawn from N(0, 1) with numpy's PCG64 and scaled to one length, so that every coordinate of x
moves all chosen weights by the same amount.
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
class RandomSubspace(WeightProjection):
    """Search a random subspace of the chosen weights.

    Args:
        dimension: d, at least 1; P takes d × (number of chosen weights) × 4 bytes.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: length of a column of P; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).
    """

    kind: ClassVar[str] = "random"

    def bytes_needed(self, size: int) -> int:
        return size * self.dimension * 4

    def bind(self, model: LoadedModel, seed: int) -> BoundRandomSubspace:
        return BoundRandomSubspace(self, model, self.chosen(model), seed)


class BoundRandomSubspace(BoundWeightProjection):
    """The frozen P of each target, (d, out, in)."""

    def __init__(self, config: RandomSubspace, model: LoadedModel, targets: list[Target], seed: int) -> None:
        super().__init__(config, model, targets)
        rng = basis_generator(seed, _STREAM)
        self.projections = [torch.empty((self.dimension, *target.shape), dtype=torch.float32) for target in targets]
        for k in range(self.dimension):
            draw = rng.standard_normal(sum(self.sizes), dtype=np.float32)  # P[:, k] ~ N(0, I)
            draw *= self.column / np.sqrt(np.square(draw, dtype=np.float64).sum())
            for projection, part in zip(self.projections, np.split(draw, np.cumsum(self.sizes)[:-1]), strict=True):
                projection[k] = torch.from_numpy(part).view(projection.shape[1:])
        self.projections = [p.to(like) for p, like in zip(self.projections, self.like, strict=True)]

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return self.as_deltas([torch.einsum("nd,dm->nm", X.to(p), p.flatten(1)) for p in self.projections])

    def basis(self) -> Iterable[torch.Tensor]:
        return iter(self.projections)


_STREAM = 0x5B5  # keeps this basis apart from other draws with the same seed
