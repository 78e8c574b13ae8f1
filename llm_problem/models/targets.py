"""Which weights a subspace moves: choosing them by module name and layer, reading and writing them as (out, in)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn

from llm_problem.models.families import Family, family_of

Layers = int | Sequence[int] | None
ENCODER = "encoder."  # before a name or pattern: the encoder's layers, not the decoder's


@dataclass(frozen=True, eq=False)
class Target:
    """One weight matrix W, seen as (out, in) however the model stores it.

    `parameter` is the name of the stored tensor. `transposed` is true where that is (in, out), as in GPT-2;
    `rows` picks the output features where several projections are fused in one tensor (None: all of them).
    """

    name: str
    parameter: str
    shape: tuple[int, int]
    transposed: bool = False
    rows: np.ndarray | None = None
    stored_rows: int = 0
    """Output features of the whole stored tensor."""

    @property
    def bias(self) -> str:
        """Name that the stored bias of the same module has, where there is one."""
        return self.parameter.removesuffix("weight") + "bias"

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """W (out, in) from the stored tensor; a view where no rows are picked."""
        weight = tensor.T if self.transposed else tensor
        return weight if self.rows is None else weight[torch.as_tensor(self.rows, device=tensor.device)]

    def add(self, tensor: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """A new stored tensor with `delta` (out, in) added to W; differentiable in `delta`."""
        delta = delta.to(tensor.dtype)
        if self.rows is None:
            return tensor + (delta.T if self.transposed else delta)
        index = torch.as_tensor(self.rows, device=tensor.device)
        return tensor.index_add(1 if self.transposed else 0, index, delta.T if self.transposed else delta)


def find_targets(model: Any, modules: str | Sequence[str], layers: Layers) -> list[Target]:
    """The chosen weights, in the order of the layers, and within a layer in the order of `modules`.

    A weight that several layers share is one target, where the first of them is: moving it moves them all.

    Layers are those that `LoadedModel.layers` counts: of an encoder-decoder model, the decoder's. Its encoder's are
    reached by names that start with `encoder.` (`encoder.q_proj`, `encoder.*`), for which `layers` counts the
    encoder's layers; their weights come first.

    Args:
        model: a transformers model.
        modules: names of projections (`q_proj` … as in `families`), of the model's own modules (`c_attn`,
            `mlp.c_fc`), or patterns with `*` of either. Names are those in a layer, without the layer's own path.
        layers: k for the last k layers, a sequence of layer numbers (negative from the end), or None for all.

    Raises:
        ValueError: a name that matches nothing (with the names there are), a layer that does not exist.
    """
    modules = (modules,) if isinstance(modules, str) else tuple(modules)
    family = family_of(model)
    if family.encoder is None:
        targets = _targets_in(model, family, modules, layers)
    else:
        inside = [name.removeprefix(ENCODER) for name in modules if name.startswith(ENCODER)]
        beside = [name for name in modules if not name.startswith(ENCODER)]
        targets = _targets_in(model, family.encoder, inside, layers, "encoder ")
        targets += _targets_in(model, family, beside, layers)
    targets = _each_once(model, targets)
    _refuse_overlap(targets)
    return targets


def _targets_in(model: Any, family: Family, modules: Sequence[str], layers: Layers, which: str = "") -> list[Target]:
    """The weights that `modules` choose in one stack of layers; `which` names it in errors."""
    if not modules:
        return []
    stack = model.get_submodule(family.layers)
    targets: list[Target] = []
    for index in layer_numbers(layers, len(stack)):
        available = _available(model, family, index, stack[index])
        chosen: dict[str, Target] = {}
        for pattern in modules:
            matched = _matching(pattern, available)
            if not matched:
                near = difflib.get_close_matches(pattern, available, n=3, cutoff=0.5)
                raise ValueError(
                    f"no module of {which}layer {index} matches {pattern!r}"
                    + (f" (did you mean {', '.join(near)}?)" if near else "")
                    + f"; there are {', '.join(available)} (of embeddings and head nothing can be chosen here: "
                    "FullVector and ModelMix move them)"
                )
            chosen.update({target.name: target for target in matched})
        targets += chosen.values()
    return targets


def stored_names(model: Any) -> dict[str, str]:
    """Every name of every stored tensor → the one that `named_parameters` has, where modules share a tensor."""
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name: first[id(parameter)] for name, parameter in model.named_parameters(remove_duplicate=False)}


def parameters_of(targets: Sequence[Target]) -> tuple[str, ...]:
    """Names of the stored tensors that the targets lie in, each once."""
    return tuple(dict.fromkeys(target.parameter for target in targets))


def layer_targets(model: Any, index: int) -> dict[str, Target]:
    """All weight matrices of one layer by name: the family's names first, then the layer's own."""
    family = family_of(model)
    return _available(model, family, index, model.get_submodule(f"{family.layers}.{index}"))


def module_target(model: Any, path: str) -> Target | None:
    """The whole weight matrix of the module at `path` in the model; None where that is no linear module.

    Raises:
        AttributeError: the model has no such module.
    """
    module = model.get_submodule(path)
    return _target(path, path, module, None) if is_linear(module) else None


def layer_number(path: str, parameter: str) -> int | None:
    """Number of the layer, in the list at `path`, that a stored tensor belongs to; None where it is in none."""
    inside, _, rest = parameter.partition(f"{path}.")
    return None if inside or not rest else int(rest.split(".", 1)[0])


def layer_numbers(layers: Layers, count: int) -> list[int]:
    """The layers that are meant, ascending, of `count` in all.

    Raises:
        ValueError: one that does not exist, none at all, or one twice.
    """
    if layers is None:
        return list(range(count))
    if isinstance(layers, (int, np.integer)):
        if not 1 <= layers <= count:
            raise ValueError(f"layers={layers}: the last k layers, k from 1 to {count}, were expected")
        return list(range(count - int(layers), count))
    numbers = []
    for number in layers:
        if not -count <= number < count:
            raise ValueError(f"layer {number} does not exist: the model has {count} layers, 0 to {count - 1}")
        numbers.append(number % count)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"layers={tuple(layers)}: at least one layer, and each at most once")
    return sorted(numbers)


def _available(model: Any, family: Family, index: int, layer: nn.Module) -> dict[str, Target]:
    """All targets of one layer: the family's names first, then the module's own."""
    prefix = f"{family.layers}.{index}"
    linear = {name: module for name, module in layer.named_modules() if is_linear(module)}
    found: dict[str, Target] = {}
    for name, part in family.parts.items():
        if part.module in linear:
            rows = part.rows(model.config) if part.rows else None
            path = f"{prefix}.{part.module}"
            found[name] = _target(path + (f"[{name}]" if part.rows else ""), path, linear[part.module], rows)
    for name, module in linear.items():
        found.setdefault(name, _target(f"{prefix}.{name}", f"{prefix}.{name}", module, None))
    return found


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies by a matrix (Linear, GPT-2's Conv1D and the like)."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _target(name: str, path: str, module: nn.Module, rows: np.ndarray | None) -> Target:
    from transformers.pytorch_utils import Conv1D

    transposed = isinstance(module, Conv1D)
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    out_features, in_features = reversed(weight.shape) if transposed else weight.shape
    shape = (int(len(rows) if rows is not None else out_features), int(in_features))
    return Target(name, f"{path}.weight", shape, transposed, rows, stored_rows=int(out_features))


def _matching(pattern: str, available: dict[str, Target]) -> list[Target]:
    if pattern in available:
        return [available[pattern]]
    by_suffix = [t for name, t in available.items() if name.endswith("." + pattern)]
    if by_suffix:
        return by_suffix
    # A pattern means the family's names where it fits them: `*` on GPT-2 is q, k, v, …, not c_attn once more.
    matched = [name for name in available if fnmatchcase(name, pattern)]
    plain = [name for name in matched if "." not in name]
    if not matched:  # `c_*` like `c_attn`: the last part of a name
        matched = [name for name in available if fnmatchcase(name.rpartition(".")[2], pattern)]
    return [available[name] for name in plain or matched]


def _each_once(model: Any, targets: list[Target]) -> list[Target]:
    names = stored_names(model)
    found: dict[tuple[str, bytes | None], Target] = {}
    for target in targets:
        parameter = names[target.parameter]
        rows = None if target.rows is None else target.rows.tobytes()
        found.setdefault((parameter, rows), replace(target, parameter=parameter))
    return list(found.values())


def _refuse_overlap(targets: list[Target]) -> None:
    """Two targets must not move the same entry of a tensor, else their deltas would add up unseen."""
    taken: dict[str, set[int] | None] = {}
    for target in targets:
        rows = None if target.rows is None else set(target.rows.tolist())
        before = taken.get(target.parameter, set())
        if before is None or (rows is None and before) or (rows is not None and before and rows & before):
            raise ValueError(f"the modules overlap: {target.name} is chosen twice")
        taken[target.parameter] = None if rows is None else before | rows
