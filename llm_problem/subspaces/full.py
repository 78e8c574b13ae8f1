"""The full parameter vector, as gradient-free optimization of language models is usually written down.

x is every trained number of the model, one after another, as a difference from the pretrained ones: x = (θ − θ0)/s.
Practical for tiny models; its use elsewhere is to show what a subspace saves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import kinds
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import Delta, DenseDelta
from llm_problem.subspaces.scale import FULL_STEP


@dataclass(frozen=True)
class FullVector(Subspace):
    """Search all parameters.

    Args:
        scale: s, by which a unit of x changes a parameter; 1.0 is the raw θ − θ0. None makes the root mean square
            of a unit step a set share of that of the parameters (see `scale.py`).

    Tied tensors are one parameter, counted once, in the order of `model.named_parameters()`. What a model computes
    anew when it is loaded (Marian's sinusoidal positions) is no parameter of it.
    """

    kind: ClassVar[str] = "full"

    def bind(self, model: LoadedModel, seed: int) -> BoundFullVector:
        if found := kinds(model.model):
            raise ValueError(
                f"a quantised model ({', '.join(found)}) has no full vector of parameters: search low-rank changes of "
                "it, such as LoRAXS(…)"
            )
        return BoundFullVector(self, model)


class BoundFullVector(BoundSubspace):
    def __init__(self, config: FullVector, model: LoadedModel) -> None:
        computed = set(getattr(model.model, "_keys_to_ignore_on_save", None) or ())
        # A tied tensor appears once.
        named = [(name, p) for name, p in model.model.named_parameters() if name not in computed]
        self.parameters = tuple(name for name, _ in named)
        self.shapes = [parameter.shape for _, parameter in named]
        self.sizes = [parameter.numel() for _, parameter in named]
        self.dimension = sum(self.sizes)
        square = sum(float(parameter.detach().double().square().sum()) for _, parameter in named)
        rms = (square / self.dimension) ** 0.5
        self.like = named[0][1].detach()
        self._scale = torch.tensor([config.scale or FULL_STEP * rms], dtype=torch.float64, device=self.like.device)
        self._pretrained = [parameter for _, parameter in named]

    @property
    def scale(self) -> float:
        """By how much a unit of x changes a parameter."""
        return float(self._scale)

    def theta0(self) -> torch.Tensor:
        """The pretrained parameters (d,) float64 in units of x, so that θ = scale · (theta0 + x)."""
        return torch.cat([p.detach().double().reshape(-1) for p in self._pretrained]).cpu() / self.scale

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        parts = (X * self._scale.to(X.dtype)).to(self.like).split(self.sizes, dim=1)
        return [
            DenseDelta(name, part.reshape(len(X), *shape))
            for name, part, shape in zip(self.parameters, parts, self.shapes, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        yield self._scale
