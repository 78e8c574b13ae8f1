"""Mixing coefficients of LoRA adapters: W = W0 + Σ_i x_i ΔW_i, with ΔW_i = s_i B_i A_i that of a given adapter.

LoraHub (Huang, Liu, Lin, Pang, Du & Lin 2023, arXiv:2307.13269) searches such coefficients without gradients, but mixes
the factors: (Σ x_i B_i)(Σ x_i A_i) is quadratic in x, has products of one adapter's B with another's A, and needs equal
ranks. Here the changes themselves are mixed, which is linear: x = e_i is the model with adapter i.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Target, module_target
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import Delta, LowRankDelta
from llm_problem.subspaces.lora_files import AdapterFolder

Factors = tuple[torch.Tensor, torch.Tensor]  # s B (out, r) and A (r, in)


@dataclass(frozen=True)
class AdapterMix(Subspace):
    """Search the coefficients of given LoRA adapters.

    Args:
        adapters: directories with adapter_config.json and adapter_model.safetensors, as PEFT writes them; at least
            one. They may touch different modules and have different ranks.
        scale: by which x is multiplied. None is 1: a unit of a coefficient is the whole adapter, which is the step
            that means something here, whatever size it has.

    The dimension is the number of adapters, x in their order. The description keeps the folders and what is in them;
    a problem's fingerprint depends on the latter alone.
    """

    kind: ClassVar[str] = "adapter-mix"

    adapters: Sequence[Any] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        several = not isinstance(self.adapters, (str, os.PathLike, Mapping)) and isinstance(self.adapters, Iterable)
        folders = tuple(AdapterFolder.of(adapter) for adapter in (self.adapters if several else (self.adapters,)))
        if not folders:
            raise ValueError("adapters must be one or more directories with LoRA adapters, got none")
        if len({folder.sha256 for folder in folders}) != len(folders):
            raise ValueError(
                f"an adapter is given twice: of {', '.join(folder.source for folder in folders)} some hold the same"
            )
        self._set(adapters=folders)

    @property
    def keeps_unit(self) -> bool:
        return True

    def bind(self, model: LoadedModel, seed: int) -> BoundAdapterMix:
        return BoundAdapterMix(self, model)


class BoundAdapterMix(BoundSubspace):
    """For each weight that any adapter touches: all B side by side, all A stacked, and whose each column is."""

    def __init__(self, config: AdapterMix, model: LoadedModel) -> None:
        self.dimension = len(config.adapters)
        parts: dict[str, list[tuple[int, Factors]]] = {}
        targets: dict[str, Target] = {}
        for i, folder in enumerate(config.adapters):
            for module, factors in folder.read().items():
                target = _target(model.model, module, factors, folder.source)
                targets[target.name] = target
                parts.setdefault(target.name, []).append((i, factors))
            if not any(b.count_nonzero() and a.count_nonzero() for _, (b, a) in _of(parts, i)):
                raise ValueError(f"the adapter in {folder.source} changes nothing: its factors are zero")
        self.targets = [target for _, target in sorted(targets.items())]
        self.parameters = tuple(target.parameter for target in self.targets)
        state = dict(model.model.named_parameters())
        scale = config.scale or 1.0
        self.left: list[torch.Tensor] = []  # (out, Σr), scaled
        self.right: list[torch.Tensor] = []  # (Σr, in)
        self.owner: list[torch.Tensor] = []  # (Σr,) the adapter of each column
        for target in self.targets:
            like = plain(state[target.parameter])
            mine = parts[target.name]
            self.left.append(scale * torch.cat([b for _, (b, _) in mine], dim=1).to(like))
            self.right.append(torch.cat([a for _, (_, a) in mine]).to(like))
            owner = [i for i, (_, a) in mine for _ in range(len(a))]
            self.owner.append(torch.tensor(owner, device=like.device))

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return [
            LowRankDelta(target, left, X[:, owner].to(left), right)  # diagonal cores (n, Σr)
            for target, left, owner, right in zip(self.targets, self.left, self.owner, self.right, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        for left, right in zip(self.left, self.right, strict=True):
            yield left
            yield right


def _of(parts: dict[str, list[tuple[int, Factors]]], i: int) -> Iterable[tuple[int, Factors]]:
    return (pair for mine in parts.values() for pair in mine if pair[0] == i)


def _target(model: Any, module: str, factors: Factors, source: str) -> Target:
    """The stored weight that an adapter's module is.

    Raises:
        ValueError: the model has no such module, or one of another kind or shape.
    """
    here = type(model).__name__
    b, a = factors
    modules = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."
    # An adapter of the body alone has the names without the head's model around it, and the other way round.
    path = next((p for p in (module, prefix + module, module.removeprefix(prefix)) if p in modules), None)
    if path is None:
        raise ValueError(
            f"the adapter in {source} is of another architecture: it changes {module}, which this {here} has not"
        )
    target = module_target(model, path)
    if target is None:
        kind = type(modules[path]).__name__
        raise ValueError(f"the adapter in {source} changes {path}, a {kind}: only linear modules can be mixed")
    if target.shape != (b.shape[0], a.shape[1]):
        raise ValueError(
            f"the adapter in {source} is of another model: its change of {path} has shape "
            f"{(b.shape[0], a.shape[1])}, this {here}'s weight has {target.shape}"
        )
    _require_untied(model, modules[path], path, source)
    return target


def _require_untied(model: Any, module: nn.Module, path: str, source: str) -> None:
    users = [name for name, other in model.named_parameters(remove_duplicate=False) if other is module.weight]
    if len(users) > 1:
        raise ValueError(
            f"the adapter in {source} changes {path}, whose weight is one with {users[0]}: the other would change too"
        )
