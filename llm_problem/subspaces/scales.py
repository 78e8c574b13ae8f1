"""Scales of features, as in IA3 (Liu et al. 2022, arXiv:2205.05638): l ∘ y with l = 1 + s x, a number a feature.

Of keys and values, and of any other projection that is chosen, the output features are scaled, bias and all; of the
down projection (feed-forward output) the input features, which are the feed-forward's inner activations. So does PEFT's
IA3, whose vectors are l. At x = 0 every l is 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from llm_problem.models.families import family_of
from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Target, find_targets, parameters_of, stored_names
from llm_problem.subspaces.base import BoundSubspace, Subspace, layers_value, modules_tuple
from llm_problem.subspaces.deltas import Delta, DenseDelta, ScaleDelta
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class Scales(Subspace):
    """Search factors of features.

    Args:
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        modules: projections by name or pattern, see `llm_problem.models.find_targets`; the one with the name
            `down_proj`, in the model's family or (where that is not known) its own, is scaled at its input, all others
            at their output.
        scale: s; None makes E‖ΔW‖ at x ~ N(0, I) a set share of ‖W‖ (see `scale.py`).

    x holds the factors of one weight after another, in the order of `find_targets`. The dimension is the number of
    scaled features.
    """

    kind: ClassVar[str] = "scales"

    layers: int | Sequence[int] | None = None
    modules: str | Sequence[str] = ("k_proj", "v_proj", "down_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(layers=layers_value(self.layers), modules=modules_tuple(self.modules))

    def bind(self, model: LoadedModel, seed: int) -> BoundScales:
        return BoundScales(self, model, find_targets(model.model, self.modules, self.layers))


class BoundScales(BoundSubspace):
    """The pretrained weights and biases that are scaled."""

    def __init__(self, config: Scales, model: LoadedModel, targets: list[Target]) -> None:
        self.targets = targets
        state = dict(model.model.named_parameters())
        step = config.scale or relative_step(len(targets), model.layers)
        self.scale = state[targets[0].parameter].new_tensor([step], dtype=torch.float64)
        feed_forward = down_projections(model.model)
        self.sides = ["input" if t.parameter in feed_forward else "output" for t in targets]
        self.weights = [target.read(plain(state[target.parameter])) for target in targets]
        self.sizes = [t.shape[side == "input"] for t, side in zip(targets, self.sides, strict=True)]
        self.dimension = sum(self.sizes)
        self._biases: dict[str, torch.Tensor] = {}
        """The stored biases of outputs that are scaled, each (stored rows,)."""
        self._biases_of: list[list[str]] = []
        stored = stored_names(model.model)
        for target, side in zip(targets, self.sides, strict=True):
            # A weight that modules share may have a bias in each.
            users = [name for name, first in stored.items() if first == target.parameter and side == "output"]
            biases = [f"{name.removesuffix('weight')}bias" for name in users]
            names = list(dict.fromkeys(stored[name] for name in biases if name in stored))
            self._biases_of.append(names)
            self._biases.update((name, plain(state[name])) for name in names)
        self.parameters = parameters_of(targets) + tuple(self._biases)

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        changes: list[Delta] = []
        # One change a stored bias, however many projections it is fused of.
        moved = {name: bias.new_zeros(len(X), len(bias)) for name, bias in self._biases.items()}
        parts = (X * self.scale).split(self.sizes, dim=1)
        for target, side, weight, biases, part in zip(
            self.targets, self.sides, self.weights, self._biases_of, parts, strict=True
        ):
            changes.append(ScaleDelta(target, weight, part.to(weight), side))
            for bias in biases:
                rows = torch.arange(target.stored_rows) if target.rows is None else torch.from_numpy(target.rows)
                rows = rows.to(weight.device)
                moved[bias] = moved[bias].index_add(1, rows, part.to(weight) * self._biases[bias][rows])
        return changes + [DenseDelta(name, value) for name, value in moved.items()]

    def basis(self) -> Iterable[torch.Tensor]:
        yield self.scale


def down_projections(model: Any) -> set[str]:
    """Names of the stored weights of all down projections, an encoder's too; where the family has no names, of what the
    model itself calls `down_proj`."""
    family, found = family_of(model), set()
    for stack in (family, family.encoder):
        if stack is not None and "down_proj" in stack.parts:
            path = stack.parts["down_proj"].module
            layers = range(len(model.get_submodule(stack.layers)))
            found |= {f"{stack.layers}.{index}.{path}.weight" for index in layers}
        elif stack is not None:
            inside = (name for name, _ in model.named_parameters() if name.startswith(f"{stack.layers}."))
            found |= {name for name in inside if name.endswith(".down_proj.weight")}
    return found
