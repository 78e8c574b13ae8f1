"""LoRA-XS (Bałazy, Banaei, Aberer & Tabor 2024, arXiv:2405.17604): a small r×r core between frozen singular vectors.

ΔW = s · U_r Σ_r R V_rᵀ with W = U Σ Vᵀ the truncated singular value decomposition of the pretrained weight and R the
searched core, r² numbers a weight. U, Σ, V stay frozen. The paper starts from small random R; here x = 0, the
pretrained model itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.targets import Target, parameters_of
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta, LowRankDelta
from llm_problem.subspaces.low_rank import RankedSubspace, singular_factors, step, stored_and_read
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class LoRAXS(RankedSubspace):
    """Search the r×r cores of LoRA-XS.

    Args:
        rank: r, at least 1 and at most the smaller side of each chosen weight.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: s; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).

    The dimension is rank² × number of chosen weights; x holds the cores one after another, each row by row.
    """

    kind: ClassVar[str] = "lora-xs"

    def bind(self, model: LoadedModel, seed: int) -> BoundLoRAXS:
        return BoundLoRAXS(self, model, self.chosen(model))


class BoundLoRAXS(BoundSubspace):
    """The frozen singular vectors of each target; x is the cores."""

    def __init__(self, config: LoRAXS, model: LoadedModel, targets: list[Target]) -> None:
        self.rank, self.targets = config.rank, targets
        self.dimension = config.rank**2 * len(targets)
        self.parameters = parameters_of(targets)
        self.left: list[torch.Tensor] = []  # U_r Σ_r, (out, r), scaled
        self.right: list[torch.Tensor] = []  # V_rᵀ, (r, in)
        share = relative_step(len(targets), model.layers)
        for target, stored, weight in stored_and_read(model, targets):
            left, right = singular_factors(target, weight, self.rank)
            # ‖U Σ R Vᵀ‖² = Σ_k σ_k² ‖R_k‖², so at R ~ N(0, I) its root mean square is √r · ‖Σ_r‖.
            typical = np.sqrt(self.rank) * float(np.linalg.norm(left))
            left *= step(config.scale, share, target, weight, typical)
            self.left.append(torch.as_tensor(left).to(stored))
            self.right.append(torch.as_tensor(right).to(stored))

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        r = self.rank
        cores = X.to(self.left[0]).reshape(len(X), len(self.targets), r, r)  # (n, targets, r, r)
        return [
            LowRankDelta(target, left, cores[:, k].to(left), right)  # T5 keeps some weights in single precision
            for k, (target, left, right) in enumerate(zip(self.targets, self.left, self.right, strict=True))
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        for left, right in zip(self.left, self.right, strict=True):
            yield left
            yield right
