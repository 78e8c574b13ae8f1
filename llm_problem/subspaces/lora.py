"""LoRA (Hu et al. 2021, arXiv:2106.09685) with a frozen A, as in LoRA-FA (Zhang et al. 2023, arXiv:2308.03303).

ΔW = s · B A with A (r, in) drawn from N(0, 1/in) and B (out, r) searched: with A frozen the map is linear in x, and
B = 0 is the pretrained model, where LoRA starts too. A whole LoRA, with A searched as well, would be bilinear.
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
from llm_problem.subspaces.deltas import Delta, FactorDelta
from llm_problem.subspaces.draws import basis_generator
from llm_problem.subspaces.low_rank import RankedSubspace, step, stored_and_read
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class LoRA(RankedSubspace):
    """Search the B of LoRA.

    Args:
        rank: r, at least 1 and at most the smaller side of each chosen weight.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: s; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).

    The dimension is rank × (output features of all chosen weights); x holds the B's one after another, each row by
    row.
    """

    kind: ClassVar[str] = "lora"

    def bind(self, model: LoadedModel, seed: int) -> BoundLoRA:
        return BoundLoRA(self, model, self.chosen(model), seed)


class BoundLoRA(BoundSubspace):
    """The frozen A of each target; x is the B's."""

    def __init__(self, config: LoRA, model: LoadedModel, targets: list[Target], seed: int) -> None:
        self.rank, self.targets = config.rank, targets
        self.parameters = parameters_of(targets)
        self.sizes = [self.rank * target.shape[0] for target in targets]
        self.dimension = sum(self.sizes)
        self.right: list[torch.Tensor] = []  # s A, (r, in)
        share = relative_step(len(targets), model.layers)
        rng = basis_generator(seed, _STREAM)
        for target, stored, weight in stored_and_read(model, targets):
            outputs, inputs = target.shape
            right = rng.standard_normal((self.rank, inputs)) / np.sqrt(inputs)  # A ~ N(0, 1/in)
            # Each row of B A is a row of B ~ N(0, I) times A: E‖B A‖² = out · ‖A‖².
            typical = np.sqrt(outputs) * float(np.linalg.norm(right))
            right *= step(config.scale, share, target, weight, typical)
            self.right.append(torch.as_tensor(right).to(stored))

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        parts = X.split(self.sizes, dim=1)
        return [
            FactorDelta(target, part.to(right).reshape(len(X), target.shape[0], self.rank), right)
            for target, part, right in zip(self.targets, parts, self.right, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        return iter(self.right)


_STREAM = 0x10FA  # keeps this basis apart from other draws with the same seed
