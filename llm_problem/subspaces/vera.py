"""VeRA (Kopiczko, Blankevoort & Asano 2023, arXiv:2310.11454): vectors between random matrices that all weights share.

ΔW = diag(b) B diag(d) A with frozen random A (r, in) and B (out, r), one pair for all chosen weights, and vectors b
(out) and d (r) of each weight's own. The paper trains both; together they are bilinear, so here one of them is a
constant and the other one is searched, zero at x = 0.

As in PEFT's VERA, A and B are as large as the largest weight needs, and smaller ones take their first columns and rows;
both are drawn uniformly with Kaiming's variance 2 / (number of columns).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.targets import Target, find_targets, parameters_of
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta, FactorDelta, LowRankDelta, SharedFactors
from llm_problem.subspaces.draws import basis_generator
from llm_problem.subspaces.low_rank import RankedSubspace, step, stored_and_read
from llm_problem.subspaces.scale import relative_step

VECTORS = ("d", "b")


@dataclass(frozen=True)
class VeRA(RankedSubspace):
    """Search one of VeRA's two vectors.

    Args:
        rank: r, at least 1; it may be above the rank of the weights (PEFT's default is 256).
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        searched: "d", r numbers a weight, or "b", as many as the weight has outputs.
        scale: every number of the vector that is not searched; None makes it, for each weight, what makes E‖ΔW‖ at
            x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).

    x holds the searched vectors one after another.
    """

    kind: ClassVar[str] = "vera"

    rank: int = 16
    searched: str = "d"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.searched not in VECTORS:
            raise ValueError(f"searched must be one of {', '.join(VECTORS)}, got {self.searched!r}")

    def bind(self, model: LoadedModel, seed: int) -> BoundVeRA:
        return BoundVeRA(self, model, find_targets(model.model, self.modules, self.layers), seed)


class BoundVeRA(BoundSubspace):
    """The shared matrices; x is one vector of each target.

    Attributes:
        A: (r, largest number of inputs); a target of fewer takes the first columns.
        B: (largest number of outputs of a stored tensor, r); a tensor of fewer takes the first rows, and a target that
            is some rows of its tensor takes the same rows of those.
        fixed: (targets,) for each target, every number of the vector that is not searched (b where d is, d where b is).
        searched: "d" or "b".
        sizes: for each target, how many numbers of x are its searched vector.
        targets: in the order of x.
    """

    def __init__(self, config: VeRA, model: LoadedModel, targets: list[Target], seed: int) -> None:
        self.rank, self.targets, self.searched = config.rank, targets, config.searched
        self.parameters = parameters_of(targets)
        self.sizes = [self.rank if self.searched == "d" else target.shape[0] for target in targets]
        self.dimension = sum(self.sizes)
        rng = basis_generator(seed, _STREAM)
        a = _kaiming(rng, self.rank, max(target.shape[1] for target in targets))
        b = _kaiming(rng, max(target.stored_rows for target in targets), self.rank)
        share = relative_step(len(targets), model.layers)
        fixed: list[float] = []
        self._like: list[torch.Tensor] = []
        for k, (target, stored, weight) in enumerate(stored_and_read(model, targets)):
            if k == 0:
                self.A, self.B = torch.as_tensor(a).to(stored), torch.as_tensor(b).to(stored)
            left, right = b[_rows(target)], a[:, : target.shape[1]]
            if self.searched == "d":  # E‖B diag(d) A‖² = Σ_k ‖B_k‖² ‖A_k‖² at d ~ N(0, I)
                typical = float(np.linalg.norm(np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=1)))
            else:  # E‖diag(b) B A‖² = ‖B A‖² at b ~ N(0, I)
                typical = float(np.linalg.norm(left @ right))
            fixed.append(step(config.scale, share, target, weight, typical))
            self._like.append(stored.new_empty(0))
        self.fixed = torch.tensor(fixed, dtype=torch.float64, device=self.A.device)

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        parts = X.split(self.sizes, dim=1)
        found: list[Delta] = []
        for target, like, fixed, part in zip(self.targets, self._like, self.fixed, parts, strict=True):
            # Views, but for rows that are picked, and where T5 keeps a weight in another precision.
            left = self.B[_rows(target)].to(like)  # (out, r)
            right = self.A[:, : target.shape[1]].to(like)  # (r, in)
            vector = (part * fixed).to(left)  # (n, r) or (n, out)
            if self.searched == "d":
                shared = SharedFactors(self.B, self.A, inner=vector)
                found.append(LowRankDelta(target, left, vector, right, shared))
            else:
                shared = SharedFactors(self.B, self.A, outer=vector)
                found.append(FactorDelta(target, vector[:, :, None] * left, right, shared))
        return found

    def basis(self) -> Iterable[torch.Tensor]:
        yield self.A
        yield self.B
        yield self.fixed


_STREAM = 0x7E3A  # keeps this basis apart from other draws with the same seed


def _kaiming(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) from the uniform distribution of mean 0 and variance 2 / columns."""
    bound = np.sqrt(6 / columns)
    return rng.uniform(-bound, bound, (rows, columns))


def _rows(target: Target) -> slice | np.ndarray:
    """Which rows of B are a target's."""
    return slice(target.stored_rows) if target.rows is None else target.rows
