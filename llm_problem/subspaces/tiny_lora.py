"""TinyLoRA (Morris et al. 2026, "Learning to Reason in 13 Parameters", arXiv:2602.04118): few numbers for all weights.

ΔW = s · U_r Σ_r (Σ_i v_i P_i) V_rᵀ with W = U Σ Vᵀ the truncated singular value decomposition of the pretrained weight,
as in LoRA-XS, and fixed random r×r matrices P_i of the weight's own. The vector v is shared by all chosen weights, so
that the dimension does not depend on how many they are. The P_i are drawn from N(0, 1/r), as PEFT's TINYLORA draws
them; PEFT gives √Σ to either side, which is another parametrisation of the cores.
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
from llm_problem.subspaces.draws import basis_generator, require_memory
from llm_problem.subspaces.low_rank import singular_factors, step, stored_and_read, targets_of_rank
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class TinyLoRA(Subspace):
    """Search one small vector that moves all chosen weights.

    Args:
        dimension: numbers in v, at least 1 and at most rank² × number of chosen weights.
        rank: r, at least 1 and at most the smaller side of each chosen weight; the paper's is 2.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: s; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).
    """

    kind: ClassVar[str] = "tiny-lora"

    dimension: int = 13
    rank: int = 4
    layers: int | Sequence[int] | None = None
    modules: str | Sequence[str] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(dimension=positive_int("dimension", self.dimension), rank=positive_int("rank", self.rank))
        self._set(layers=layers_value(self.layers), modules=modules_tuple(self.modules))

    def bind(self, model: LoadedModel, seed: int) -> BoundTinyLoRA:
        targets = targets_of_rank(model, self.modules, self.layers, self.rank)
        size = self.rank**2 * len(targets)
        if self.dimension > size:
            raise ValueError(
                f"dimension {self.dimension} is above the number of core entries, {size} (rank {self.rank} on "
                f"{len(targets)} weights): choose a smaller dimension or a larger rank"
            )
        # Drawn in double precision, kept in the model's.
        require_memory(
            size * self.dimension * 16,
            f"a dense projection of dimension {self.dimension} to {size} core entries",
            "fewer modules or layers, a smaller rank or a smaller dimension",
        )
        return BoundTinyLoRA(self, model, targets, seed)


class BoundTinyLoRA(BoundSubspace):
    """The frozen singular vectors and P of each target; x is v."""

    def __init__(self, config: TinyLoRA, model: LoadedModel, targets: list[Target], seed: int) -> None:
        self.rank, self.targets, self.dimension = config.rank, targets, config.dimension
        self.parameters = parameters_of(targets)
        self.left: list[torch.Tensor] = []  # s U_r Σ_r, (out, r)
        self.right: list[torch.Tensor] = []  # V_rᵀ, (r, in)
        self.projections: list[torch.Tensor] = []  # P, (d, r, r)
        share = relative_step(len(targets), model.layers)
        draw = basis_generator(seed, _STREAM).standard_normal((self.dimension, len(targets), self.rank, self.rank))
        draw /= np.sqrt(self.rank)  # P ~ N(0, 1/r)
        for k, (target, stored, weight) in enumerate(stored_and_read(model, targets)):
            left, right = singular_factors(target, weight, self.rank)
            sigma = np.linalg.norm(left, axis=0)  # (r,)
            # E‖Σ_r R‖² = Σ_i ‖Σ_r P_i‖² for R = Σ_i v_i P_i and v ~ N(0, I).
            typical = float(np.linalg.norm(sigma[:, None] * draw[:, k]))
            left *= step(config.scale, share, target, weight, typical)
            self.left.append(torch.as_tensor(left).to(stored))
            self.right.append(torch.as_tensor(right).to(stored))
            self.projections.append(torch.as_tensor(draw[:, k].copy()).to(stored))

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        found: list[Delta] = []
        for target, left, right, P in zip(self.targets, self.left, self.right, self.projections, strict=True):
            # A product for each candidate: one of all has other last bits for another number of candidates.
            v, flat = X.to(P)[:, None], P.flatten(1).expand(len(X), -1, -1)  # (n, 1, d), (n, d, r²)
            core = torch.bmm(v, flat).view(len(X), self.rank, self.rank)
            found.append(LowRankDelta(target, left, core, right))
        return found

    def basis(self) -> Iterable[torch.Tensor]:
        for factors in zip(self.left, self.right, self.projections, strict=True):
            yield from factors


_STREAM = 0x717A  # keeps this basis apart from other draws with the same seed
