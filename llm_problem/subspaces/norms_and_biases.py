"""Norms and biases: the small tensors of the layers, entry by entry, θ = θ0 + s x.

Searching biases alone is BitFit (Ben Zaken, Ravfogel & Goldberg 2021, arXiv:2106.10199), norms alone LN tuning (Zhao,
Tu, Wei, Mei & Xie 2023, arXiv:2312.11420).

Every tensor has a step s of its own, a set share of its root mean square: of a norm's weight, that of the gain, which
Gemma counts from one. A tensor of zeros, as biases are in models that never trained them, has no size to take a share
of: there it is the root mean square of what its module gives for an input of independent numbers of variance 1,
‖W‖/√out beside a weight W (out, in), and that of the gain beside a gain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from llm_problem.models.families import family_of
from llm_problem.models.loading import LoadedModel
from llm_problem.models.norms import counted_from, final_norms, is_norm, norms_in
from llm_problem.models.quantised import plain
from llm_problem.models.targets import is_linear, layer_numbers, stored_names
from llm_problem.subspaces.base import BoundSubspace, Subspace, layers_value
from llm_problem.subspaces.deltas import Delta, DenseDelta
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class NormsAndBiases(Subspace):
    """Search gains and biases.

    Args:
        layers: k for the last k layers, a sequence of layer numbers, or None for all; of an encoder-decoder model, the
            decoder's.
        norms: whether the norms of these layers move, gains and (where they have them) biases.
        biases: whether the biases of the layers' projections move, where the model has them.
        final_norm: whether the norm between the last layer and the output embeddings moves.
        scale: the share that a step s is of a tensor's root mean square, and so ‖Δθ‖/‖θ‖ at x ~ N(0, I); None takes
            the rule of `scale.py`.

    x holds the norms' tensors, then the biases, then the final norm's, each in the order of the layers.
    """

    kind: ClassVar[str] = "norms-and-biases"

    layers: int | Sequence[int] | None = None
    norms: bool = True
    biases: bool = True
    final_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(layers=layers_value(self.layers))
        for name in ("norms", "biases", "final_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if not (self.norms or self.biases or self.final_norm):
            raise ValueError("nothing is chosen: at least one of norms, biases and final_norm must be True")

    def bind(self, model: LoadedModel, seed: int) -> BoundNormsAndBiases:
        family = family_of(model.model)
        stack = model.model.get_submodule(family.layers)
        paths = [f"{family.layers}.{number}" for number in layer_numbers(self.layers, len(stack))]
        there = {
            "norms": [norm for path in paths for norm in norms_in(model.model, path)],
            "biases": [linear for path in paths for linear in _biased_in(model.model, path)],
            "final_norm": final_norms(model.model),
        }
        chosen = {name: modules for name, modules in there.items() if getattr(self, name)}
        missing = [name for name, modules in chosen.items() if not modules]
        # A model without biases is searched by its norms where both may move.
        if missing and (len(missing) == len(chosen) or "final_norm" in missing):
            have = ", ".join(f"{name} ({len(modules)})" for name, modules in there.items() if modules) or "none of them"
            raise ValueError(f"this model has no {' and no '.join(missing)} to move here; there are {have}")
        groups = [_tensors(model.model, modules, gains=name != "biases") for name, modules in chosen.items() if modules]
        return BoundNormsAndBiases(self, model, groups)


class BoundNormsAndBiases(BoundSubspace):
    """The tensors that move and their steps."""

    def __init__(self, config: NormsAndBiases, model: LoadedModel, groups: list[list[str]]) -> None:
        self.parameters = tuple(name for group in groups for name in group)
        state = dict(model.model.named_parameters())
        self.like = [state[name].detach() for name in self.parameters]
        self.sizes = [tensor.numel() for tensor in self.like]
        self.dimension = sum(self.sizes)
        self.blocks = tuple(sum(state[name].numel() for name in group) for group in groups) if groups[1:] else ()
        share = config.scale or relative_step(len(self.parameters), model.layers)
        steps = [share * _size(model.model, state, name) for name in self.parameters]
        self.steps = torch.tensor(steps, dtype=torch.float64, device=self.like[0].device)

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return [
            DenseDelta(name, (part * step).to(like))
            for name, part, step, like in zip(
                self.parameters, X.split(self.sizes, dim=1), self.steps, self.like, strict=True
            )
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        yield self.steps


def _biased_in(model: Any, path: str) -> list[str]:
    """Paths of the projections with a bias in the module at `path`."""
    inside = model.get_submodule(path).named_modules()
    return [
        f"{path}.{name}" for name, module in inside if is_linear(module) and getattr(module, "bias", None) is not None
    ]


def _tensors(model: Any, modules: list[str], *, gains: bool) -> list[str]:
    """Names of the stored tensors that move in these modules, each once: gains and biases, or biases only."""
    stored = stored_names(model)
    leaves = ("weight", "bias") if gains else ("bias",)
    names = [name for module in modules for leaf in leaves if (name := f"{module}.{leaf}") in stored]
    return list(dict.fromkeys(stored[name] for name in names))


def _size(model: Any, state: dict[str, torch.nn.Parameter], name: str) -> float:
    """What a tensor's step is a share of.

    Raises:
        ValueError: it is not finite, or there is nothing but zeros.
    """
    path, _, leaf = name.rpartition(".")
    beside = counted_from(module) if is_norm(module := model.get_submodule(path)) else 0.0
    size = _rms(plain(state[name]) + beside) if leaf == "weight" else _rms(state[name])
    if size == 0 and leaf == "bias":
        weight = state[f"{path}.weight"]
        size = _rms(plain(weight) + beside) if weight.ndim == 1 else _rms(weight) * _inputs(weight, state[name]) ** 0.5
    if not 0 < size < float("inf"):
        raise ValueError(
            f"{name} is zero or not finite: it has no size that a step could be a share of; leave it out (layers, "
            "norms=False, biases=False)"
        )
    return size


def _rms(tensor: torch.Tensor) -> float:
    return float(plain(tensor).double().square().mean().sqrt())


def _inputs(weight: torch.Tensor, bias: torch.Tensor) -> float:
    """Input features of a weight that is stored as (out, in) or (in, out)."""
    return weight.numel() / bias.numel()
