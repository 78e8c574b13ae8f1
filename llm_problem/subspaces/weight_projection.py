"""What the projections of chosen weights share: θ = θ0 + P x with a frozen P (D, d), D entries of chosen weights.

The entries stand one after another, weight by weight in the order of `find_targets`, each row by row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Target, find_targets, parameters_of
from llm_problem.subspaces.base import BoundSubspace, Subspace, layers_value, modules_tuple, positive_int
from llm_problem.subspaces.deltas import Delta, WeightDelta
from llm_problem.subspaces.draws import require_memory
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class WeightProjection(Subspace):
    """Base of the descriptions: how many coordinates, and which weights they move."""

    dimension: int = 32
    layers: int | Sequence[int] | None = None
    modules: str | Sequence[str] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(dimension=positive_int("dimension", self.dimension))
        self._set(layers=layers_value(self.layers), modules=modules_tuple(self.modules))

    @abstractmethod
    def bytes_needed(self, size: int) -> int:
        """Memory of P for `size` entries, in single precision."""

    def chosen(self, model: LoadedModel) -> list[Target]:
        """The chosen weights.

        Raises:
            ValueError: they hold fewer entries than there are coordinates, or P does not fit into memory.
        """
        targets = find_targets(model.model, self.modules, self.layers)
        size = sum(target.shape[0] * target.shape[1] for target in targets)
        if self.dimension > size:
            raise ValueError(f"dimension {self.dimension} is above the number of chosen weights, {size}")
        require_memory(
            self.bytes_needed(size),
            f"projecting {size} weights to dimension {self.dimension} ({self.kind})",
            "fewer modules or layers, or a smaller dimension",
        )
        return targets


class BoundWeightProjection(BoundSubspace):
    """The chosen weights, and how long a column of P is."""

    def __init__(self, config: WeightProjection, model: LoadedModel, targets: list[Target]) -> None:
        self.dimension, self.targets = config.dimension, targets
        self.parameters = parameters_of(targets)
        self.sizes = [target.shape[0] * target.shape[1] for target in targets]
        state = dict(model.model.named_parameters())
        weights = [target.read(plain(state[target.parameter])) for target in targets]
        self.like = [weight.new_empty(0) for weight in weights]
        """Empty tensors of the weights' precision and device."""
        length = sum(float(w.double().square().sum()) for w in weights) ** 0.5  # ‖θ‖ of all that is moved
        # Columns of length c give E‖P x‖² = d c² at x ~ N(0, I), and the weights move together, not each on its own.
        self.column = config.scale or relative_step(len(targets), model.layers) * length / config.dimension**0.5

    def as_deltas(self, parts: Sequence[torch.Tensor]) -> list[Delta]:
        """Changes from the parts of P x that belong to the weights, each (n, entries)."""
        return [
            WeightDelta(target, part.to(like).unflatten(1, target.shape))
            for target, part, like in zip(self.targets, parts, self.like, strict=True)
        ]
