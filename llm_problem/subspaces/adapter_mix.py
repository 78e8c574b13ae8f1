"""Mixing coefficients of adapters: W = W0 + Σ_i x_i ΔW_i, with ΔW_i the change that a given adapter makes.

LoraHub (Huang, Liu, Lin, Pang, Du & Lin 2023, arXiv:2307.13269) searches such coefficients of LoRA adapters without
gradients, but mixes the factors: (Σ x_i B_i)(Σ x_i A_i) is quadratic in x, has products of one adapter's B with
another's A, and needs equal ranks. Here the changes themselves are mixed, which is linear: x = e_i is the model with
adapter i. Every kind of adapter that is a fixed change of weights can be mixed with every other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Target, module_target
from llm_problem.subspaces.adapter_changes import AdapterChanges, Factors
from llm_problem.subspaces.adapter_files import AdapterFolder
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import Delta, DenseDelta, LowRankDelta, ScaleDelta


@dataclass(frozen=True)
class AdapterMix(Subspace):
    """Search the coefficients of given adapters.

    Args:
        adapters: directories with adapter_config.json and adapter_model.safetensors, as PEFT writes them; at least
            one. Types LORA (with `lora_bias` too), VERA, IA3 and LN_TUNING, and modules that were saved whole beside
            them (`modules_to_save`). They may be of different types, touch different modules and have different ranks.
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
            raise ValueError("adapters must be one or more directories with adapters, got none")
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


@dataclass(eq=False)
class _Found:
    """The changes of all adapters, each with the number of its adapter."""

    targets: dict[str, Target] = field(default_factory=dict)
    factors: dict[str, list[tuple[int, Factors]]] = field(default_factory=dict)  # by target
    scales: dict[tuple[str, str], list[tuple[int, torch.Tensor]]] = field(default_factory=dict)  # by target and side
    tensors: dict[str, list[tuple[int, torch.Tensor]]] = field(default_factory=dict)  # by the name of a stored tensor

    def of(self, i: int) -> list[torch.Tensor]:
        """What adapter i changes by; a product of factors as its smaller part."""
        products = [b if not b.any() else a for mine in self.factors.values() for k, (b, a) in mine if k == i]
        plain = (*self.scales.values(), *self.tensors.values())
        return products + [tensor for mine in plain for k, tensor in mine if k == i]


class BoundAdapterMix(BoundSubspace):
    """For each weight that products of factors move: all B side by side, all A stacked, and whose each column is; for
    each that is scaled, and for each other tensor that moves: the adapters' changes stacked, and whose they are."""

    def __init__(self, config: AdapterMix, model: LoadedModel) -> None:
        self.dimension = len(config.adapters)
        found, state = _Found(), dict(model.model.named_parameters())
        for i, folder in enumerate(config.adapters):
            _collect(found, i, folder.read(), model.model, state, folder.source)
            if not any(tensor.any() for tensor in found.of(i)):
                raise ValueError(f"the adapter in {folder.source} changes nothing: its changes are zero")
        scale = config.scale or 1.0
        self.targets = [found.targets[name] for name in sorted(found.factors)]
        self.left: list[torch.Tensor] = []  # (out, Σr), scaled
        self.right: list[torch.Tensor] = []  # (Σr, in)
        self.owner: list[torch.Tensor] = []  # (Σr,) the adapter of each column
        for target in self.targets:
            like = plain(state[target.parameter])
            mine = found.factors[target.name]
            self.left.append(scale * torch.cat([b for _, (b, _) in mine], dim=1).to(like))
            self.right.append(torch.cat([a for _, (_, a) in mine]).to(like))
            owner = [i for i, (_, a) in mine for _ in range(len(a))]
            self.owner.append(torch.tensor(owner, device=like.device))
        self.scaled = [(found.targets[name], side) for name, side in sorted(found.scales)]
        self.weights = [target.read(plain(state[target.parameter])) for target, _ in self.scaled]
        self.factors = [_stacked(found.scales[t.name, side], scale, state[t.parameter]) for t, side in self.scaled]
        self.names = sorted(found.tensors)
        self.tensors = [_stacked(found.tensors[name], scale, state[name]) for name in self.names]
        moved = (*self.targets, *(target for target, _ in self.scaled))
        self.parameters = tuple(dict.fromkeys((*(target.parameter for target in moved), *self.names)))

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        changes: list[Delta] = [
            LowRankDelta(target, left, X[:, owner].to(left), right)  # diagonal cores (n, Σr)
            for target, left, owner, right in zip(self.targets, self.left, self.owner, self.right, strict=True)
        ]
        for (target, side), weight, mine in zip(self.scaled, self.weights, self.factors, strict=True):
            changes.append(ScaleDelta(target, weight, _mixed(X, mine), side))
        for name, mine in zip(self.names, self.tensors, strict=True):
            changes.append(DenseDelta(name, _mixed(X, mine)))
        return changes

    def basis(self) -> Iterable[torch.Tensor]:
        for left, right in zip(self.left, self.right, strict=True):
            yield left
            yield right
        for changes, _ in (*self.factors, *self.tensors):
            yield changes


Stack = tuple[torch.Tensor, torch.Tensor]
"""The changes (k, *shape) of k adapters, and which ones (k,)."""


def _stacked(mine: list[tuple[int, torch.Tensor]], scale: float, stored: torch.Tensor) -> Stack:
    like = plain(stored)
    owners = torch.tensor([i for i, _ in mine], device=like.device)
    return scale * torch.stack([change.to(like) for _, change in mine]), owners


def _mixed(X: torch.Tensor, mine: Stack) -> torch.Tensor:
    """Σ_k x_k change_k (n, *shape)."""
    changes, owners = mine
    return (X[:, owners].to(changes) @ changes.flatten(1)).unflatten(1, changes.shape[1:])


def _collect(
    found: _Found, i: int, changes: AdapterChanges, model: Any, state: Mapping[str, torch.Tensor], source: str
) -> None:
    """Note where in the model the changes of adapter i are."""
    biases = {_path(model, module, source): change for module, change in changes.biases.items()}
    for module, (b, a) in changes.factors.items():
        target = _target(model, _path(model, module, source), source)
        columns = target.shape[1] if changes.sliced else a.shape[1]
        _require_shape(target, (b.shape[0], a[:, :columns].shape[1]), source, model)
        found.targets[target.name] = target
        found.factors.setdefault(target.name, []).append((i, (b, a[:, :columns])))
    for module, factors in changes.scales.items():
        path = _path(model, module, source)
        target, side = _target(model, path, source), "output" if factors.shape[1] == 1 else "input"
        out, inside = target.shape
        _require_shape(target, (len(factors), inside) if side == "output" else (out, factors.shape[1]), source, model)
        found.targets[target.name] = target
        found.scales.setdefault((target.name, side), []).append((i, factors.flatten() - 1))
        if side == "output" and target.bias in state:
            own = plain(state[target.bias]).float().cpu()
            biases[path] = biases.get(path, 0) + (factors.flatten() - 1) * own
    whole = {(_path(model, module, source), leaf): t for module, ts in changes.whole.items() for leaf, t in ts.items()}
    for (path, leaf), value in {**whole, **{(path, "bias"): change for path, change in biases.items()}}.items():
        name = f"{path}.{leaf}"
        if name not in state:
            raise ValueError(f"the adapter in {source} changes {name}, which this {type(model).__name__} has not")
        if value.shape != state[name].shape:
            raise ValueError(
                f"the adapter in {source} is of another model: its {name} has shape {tuple(value.shape)}, this "
                f"{type(model).__name__}'s has {tuple(state[name].shape)}"
            )
        _require_untied(model, state[name], path, source)
        change = value - plain(state[name]).float().cpu() if (path, leaf) in whole else value
        found.tensors.setdefault(name, []).append((i, change))


def _path(model: Any, module: str, source: str) -> str:
    """Where in this model an adapter's module is.

    Raises:
        ValueError: nowhere.
    """
    modules, prefix = dict(model.named_modules()), f"{model.base_model_prefix}."
    # An adapter of the body alone has the names without the head's model around it, and the other way round.
    for path in (module, prefix + module, module.removeprefix(prefix)):
        if path in modules:
            return path
    raise ValueError(
        f"the adapter in {source} is of another architecture: it changes {module}, which this "
        f"{type(model).__name__} has not"
    )


def _target(model: Any, path: str, source: str) -> Target:
    """The stored weight of the module at `path`.

    Raises:
        ValueError: one of another kind, or one that is another module's too.
    """
    target = module_target(model, path)
    module = model.get_submodule(path)
    if target is None:
        kind = type(module).__name__
        raise ValueError(f"the adapter in {source} changes {path}, a {kind}: only linear modules can be mixed")
    _require_untied(model, module.weight, path, source)
    return target


def _require_shape(target: Target, shape: tuple[int, int], source: str, model: nn.Module) -> None:
    if target.shape != shape:
        raise ValueError(
            f"the adapter in {source} is of another model: its change of {target.name} has shape {shape}, this "
            f"{type(model).__name__}'s weight has {target.shape}"
        )


def _require_untied(model: Any, tensor: torch.Tensor, path: str, source: str) -> None:
    users = [name for name, other in model.named_parameters(remove_duplicate=False) if other is tensor]
    if len(users) > 1:
        raise ValueError(
            f"the adapter in {source} changes {path}, whose weight is one with {users[0]}: the other would change too"
        )
