"""Singular values (SVF: Sun, Cetin & Tang 2025, arXiv:2501.06252; SVDiff: Han et al. 2023, arXiv:2303.11305).

ΔW = s · U_r diag(x ∘ σ) V_rᵀ with W = U diag(σ) Vᵀ the singular value decomposition of the pretrained weight: each of
the r largest singular values is multiplied by 1 + s x, as SVF's vectors do; SVDiff adds to them. U and V stay frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.targets import Target, parameters_of
from llm_problem.subspaces.base import BoundSubspace, Subspace, layers_value, modules_tuple, positive_int
from llm_problem.subspaces.deltas import Delta, LowRankDelta
from llm_problem.subspaces.low_rank import singular_factors, step, stored_and_read, targets_of_rank
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class SingularValues(Subspace):
    """Search relative changes of singular values.

    Args:
        rank: r, how many of the largest, at least 1 and at most the smaller side of each chosen weight; None for all.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: s; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).

    x holds the numbers of each chosen weight one after another, those of the largest singular values first.
    """

    kind: ClassVar[str] = "singular-values"

    rank: int | None = None
    layers: int | Sequence[int] | None = None
    modules: str | Sequence[str] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(rank=None if self.rank is None else positive_int("rank", self.rank))
        self._set(layers=layers_value(self.layers), modules=modules_tuple(self.modules))

    def bind(self, model: LoadedModel, seed: int) -> BoundSingularValues:
        return BoundSingularValues(self, model, targets_of_rank(model, self.modules, self.layers, self.rank))


class BoundSingularValues(BoundSubspace):
    """The frozen singular vectors of each target; x is the relative changes between them."""

    def __init__(self, config: SingularValues, model: LoadedModel, targets: list[Target]) -> None:
        self.targets = targets
        self.parameters = parameters_of(targets)
        self.sizes = [config.rank or min(target.shape) for target in targets]
        self.dimension = sum(self.sizes)
        self.left: list[torch.Tensor] = []  # s U_r diag(σ), (out, r)
        self.right: list[torch.Tensor] = []  # V_rᵀ, (r, in)
        share = relative_step(len(targets), model.layers)
        for rank, (target, stored, weight) in zip(self.sizes, stored_and_read(model, targets), strict=True):
            left, right = singular_factors(target, weight, rank)
            # ‖U diag(x ∘ σ) Vᵀ‖² = Σ_k x_k² σ_k², so at x ~ N(0, I) its root mean square is ‖σ_r‖.
            left *= step(config.scale, share, target, weight, float(np.linalg.norm(left)))
            self.left.append(torch.as_tensor(left).to(stored))
            self.right.append(torch.as_tensor(right).to(stored))

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        parts = X.split(self.sizes, dim=1)
        return [
            LowRankDelta(target, left, part.to(left), right)
            for target, left, part, right in zip(self.targets, self.left, parts, self.right, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        for left, right in zip(self.left, self.right, strict=True):
            yield left
            yield right
