"""Random subspace (Li, Farkhoor, Liu & Yosinski 2018, arXiv:1804.08838): θ = θ0 + P x with a frozen Gaussian P.

The columns of P are drawn from N(0, 1) with numpy's PCG64 and scaled to one length, so that every coordinate of x
moves all chosen weights by the same amount.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Target, find_targets
from llm_problem.subspaces.base import BoundSubspace, Subspace, layers_value, modules_tuple, positive_int
from llm_problem.subspaces.deltas import Delta, WeightDelta
from llm_problem.subspaces.draws import basis_generator, require_memory
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class RandomSubspace(Subspace):
    """Search a random subspace of the chosen weights.

    Args:
        dimension: d, at least 1; P takes d × (number of chosen weights) × 4 bytes.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`.
        scale: length of a column of P; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).
    """

    kind: ClassVar[str] = "random"

    dimension: int = 32
    layers: int | Sequence[int] | None = None
    modules: str | Sequence[str] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(dimension=positive_int("dimension", self.dimension))
        self._set(layers=layers_value(self.layers), modules=modules_tuple(self.modules))

    def bind(self, model: LoadedModel, seed: int) -> BoundRandomSubspace:
        targets = find_targets(model.model, self.modules, self.layers)
        size = sum(int(np.prod(target.shape)) for target in targets)
        if self.dimension > size:
            raise ValueError(f"dimension {self.dimension} is above the number of chosen weights, {size}")
        require_memory(
            size * self.dimension * 4,
            f"a dense projection of {size} weights to dimension {self.dimension}",
            "fewer modules or layers, or a smaller dimension",
        )
        return BoundRandomSubspace(self, model, targets, seed)


class BoundRandomSubspace(BoundSubspace):
    """The frozen P of each target, (d, out, in)."""

    def __init__(self, config: RandomSubspace, model: LoadedModel, targets: list[Target], seed: int) -> None:
        self.dimension, self.targets = config.dimension, targets
        self.parameters = tuple(dict.fromkeys(target.parameter for target in targets))
        state = dict(model.model.named_parameters())
        weights = [target.read(plain(state[target.parameter])) for target in targets]
        length = sum(float(w.double().square().sum()) for w in weights) ** 0.5  # ‖θ‖ of all that is moved
        # Columns of length c give E‖P x‖² = d c² at x ~ N(0, I), and the weights move together, not each on its own.
        column = config.scale or relative_step(len(targets), model.layers) * length / config.dimension**0.5
        rng = basis_generator(seed, _STREAM)
        sizes = [int(np.prod(target.shape)) for target in targets]
        self.projections = [torch.empty((self.dimension, *target.shape), dtype=torch.float32) for target in targets]
        for k in range(self.dimension):
            draw = rng.standard_normal(sum(sizes), dtype=np.float32)  # P[:, k] ~ N(0, I)
            draw *= column / np.sqrt(np.square(draw, dtype=np.float64).sum())
            for projection, part in zip(self.projections, np.split(draw, np.cumsum(sizes)[:-1]), strict=True):
                projection[k] = torch.from_numpy(part).view(projection.shape[1:])
        self.projections = [p.to(w) for p, w in zip(self.projections, weights, strict=True)]

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return [
            WeightDelta(target, torch.einsum("nd,doi->noi", X.to(projection), projection))
            for target, projection in zip(self.targets, self.projections, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        return iter(self.projections)


_STREAM = 0x5B5  # keeps this basis apart from other draws with the same seed
