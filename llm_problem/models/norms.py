"""Where a model's norms are, and what stands after its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llm_problem.models.families import family_of


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm (LayerNorm, a root mean square norm) with a gain of its own."""
    gain = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and isinstance(gain, torch.Tensor) and gain.ndim == 1


def counted_from(module: nn.Module) -> float:
    """What a norm's gain is beside its weight: 1 where the weight is counted from one, as Gemma's is, else 0."""
    weight = module.get_parameter("weight")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in module.named_parameters()}
    x = torch.arange(1.0, len(weight) + 1, dtype=weight.dtype, device=weight.device)[None, None]
    try:
        with torch.no_grad():
            return float(torch.func.functional_call(module, zeros, (x,)).any())
    except (TypeError, RuntimeError):  # one that reads more than hidden states, or in other shapes
        return 0.0


def norms_in(model: Any, path: str) -> list[str]:
    """Paths of the norms in the module at `path`, which may be one itself."""
    return [
        f"{path}.{name}".rstrip(".") for name, module in model.get_submodule(path).named_modules() if is_norm(module)
    ]


def final_norms(model: Any) -> list[str]:
    """Paths of the norms between the last layer (of a decoder, where there is one) and the output embeddings."""
    return [norm for piece in pieces_after_layers(model) for norm in norms_in(model, piece)]


def pieces_after_layers(model: Any) -> list[str]:
    """Paths of the modules that stand between the last layer and the output embeddings.

    Where the family's form is not known, they are the norms that are listed beside the layers, after them.
    """
    family = family_of(model)
    if family.form is not None:
        modules = dict(model.named_modules())
        return [piece for piece in family.form.tail if isinstance(piece, str) and piece in modules]
    parent, _, stack = family.layers.rpartition(".")
    beside = dict(model.get_submodule(parent).named_children())
    after = list(beside)[list(beside).index(stack) + 1 :]
    return [f"{parent}.{name}".lstrip(".") for name in after if is_norm(beside[name])]


def tensors_after_layers(model: Any) -> set[str]:
    """Names of the stored tensors that are used after the layers only: moving them leaves the layers' output alone."""
    pieces = tuple(f"{piece}." for piece in pieces_after_layers(model))
    named = list(model.named_parameters(remove_duplicate=False))
    elsewhere = {id(parameter) for name, parameter in named if not name.startswith(pieces)}
    return {name for name, parameter in named if name.startswith(pieces) and id(parameter) not in elsewhere}
