"""What is exported: one point of a subspace, and the PEFT adapter that it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llm_problem.models.loading import LoadedModel
from llm_problem.models.norms import is_norm
from llm_problem.models.targets import is_linear
from llm_problem.subspaces.deltas import (
    Delta,
    DenseDelta,
    EmbeddingDelta,
    FactorDelta,
    LowRankDelta,
    PrefixDelta,
    ScaleDelta,
)

LOW_RANK = "low-rank changes"
SHARED = "low-rank changes between shared matrices"
SCALES = "scales of features"
NORMS = "norms"
BIASES = "biases"
TENSORS = "whole tensors"
PROMPT = "a prompt's embeddings"
PREFIX = "a prompt's keys and values"


class NoAdapterError(ValueError):
    """A point that an adapter of some type cannot hold, and why."""


@dataclass(frozen=True, eq=False)
class Point:
    """One candidate: the changes that it makes, and the model that they are made to.

    `prompt` holds the token ids that stand before every text, where x moves a prompt.
    """

    loaded: LoadedModel
    deltas: tuple[Delta, ...]
    prompt: tuple[int, ...] = ()

    @property
    def kinds(self) -> set[str]:
        """What the point changes, in words."""
        return {self.kind_of(delta) for delta in self.deltas}

    def kind_of(self, delta: Delta) -> str:
        """What one change is a change of."""
        if isinstance(delta, LowRankDelta | FactorDelta):
            return LOW_RANK if delta.shared is None else SHARED
        if isinstance(delta, ScaleDelta):
            return SCALES
        if isinstance(delta, EmbeddingDelta):
            return PROMPT
        if isinstance(delta, PrefixDelta):
            return PREFIX
        if isinstance(delta, DenseDelta):
            path, _, leaf = delta.parameter.rpartition(".")
            if is_norm(module := self.module(path)):
                return NORMS
            if leaf == "bias" and is_linear(module):
                return BIASES
        return TENSORS

    def module(self, path: str) -> nn.Module:
        """A module of the model."""
        return self.loaded.model.get_submodule(path)

    def modules_with(self, kind: str) -> list[str]:
        """Paths of the modules whose stored tensors change in this way, sorted."""
        changes = (delta for delta in self.deltas if isinstance(delta, DenseDelta) and self.kind_of(delta) == kind)
        return sorted({delta.parameter.rpartition(".")[0] for delta in changes})

    def stored(self, module: str) -> dict[str, torch.Tensor]:
        """The stored tensors of one module as this point has them, by their names in it."""
        tensors = dict(self.module(module).named_parameters(recurse=False))
        for delta in self.deltas:
            if isinstance(delta, DenseDelta):
                path, _, leaf = delta.parameter.rpartition(".")
                if path == module:
                    tensors[leaf] = delta.apply(tensors[leaf], 0)  # type: ignore[assignment]
        return {name: as_stored(tensor) for name, tensor in tensors.items()}

    def bias_changes(self) -> dict[str, torch.Tensor]:
        """Module → the change (out,) of its bias, for every projection whose bias moves."""
        changes: dict[str, torch.Tensor] = {}
        for delta in self.deltas:
            if isinstance(delta, DenseDelta) and self.kind_of(delta) == BIASES:
                module = delta.parameter.removesuffix(".bias")
                value = delta.value[0].detach().float().cpu()
                changes[module] = changes[module] + value if module in changes else value
        return changes


@dataclass(frozen=True, eq=False)
class Adapter:
    """A PEFT adapter: what its configuration says beside the base model and the task, and its tensors by name."""

    peft_type: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]


def as_stored(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a safetensors file takes it."""
    return tensor.detach().cpu().contiguous().clone()


def named(module: str) -> str:
    """How PEFT's files name a module of the base model."""
    return f"base_model.model.{module}"
