"""(IA)³ (Liu et al. 2022, arXiv:2205.05638): factors of features.

PEFT multiplies a module's whole output by l = 1 + v, its bias too, or, where the module is one of
`feedforward_modules`, its input. Projections that are fused in one module fill their own rows of l; the rest is one.
"""

from __future__ import annotations

import torch

from llm_problem.export.point import Adapter, NoAdapterError, Point, named
from llm_problem.subspaces.deltas import ScaleDelta


def ia3(point: Point) -> Adapter:
    """The adapter of a point that scales outputs (with their biases) and inputs of projections.

    Raises:
        NoAdapterError: a bias that does not move with its output, an input that only a part of a module's rows has
            scaled, or a module scaled on both sides.
    """
    from transformers.pytorch_utils import Conv1D

    scales: dict[str, torch.Tensor] = {}
    sides: dict[str, str] = {}
    for delta in point.deltas:
        if not isinstance(delta, ScaleDelta):
            continue
        module, target = delta.parameter.removesuffix(".weight"), delta.target
        if sides.setdefault(module, delta.side) != delta.side:
            raise NoAdapterError(f"{module} is scaled both at its input and at its output")
        if delta.side == "input" and target.rows is not None:
            raise NoAdapterError(f"only some rows of {module} have their input scaled")
        v = delta.value[0].detach().float().cpu()
        scale = scales.setdefault(module, torch.ones(target.stored_rows if delta.side == "output" else len(v)))
        rows = slice(None) if target.rows is None else torch.as_tensor(target.rows)
        scale[rows] += v
    _require_scaled_biases(point, scales, sides)
    config = {
        "target_modules": sorted(scales),
        "feedforward_modules": sorted(module for module, side in sides.items() if side == "input"),
        "fan_in_fan_out": any(isinstance(point.module(module), Conv1D) for module in scales),
    }
    tensors = {
        # (out, 1) at the output, (1, in) at the input
        f"{named(module)}.ia3_l": scale[:, None] if sides[module] == "output" else scale[None, :]
        for module, scale in scales.items()
    }
    return Adapter("IA3", config, {name: tensor.contiguous() for name, tensor in tensors.items()})


def _require_scaled_biases(point: Point, scales: dict[str, torch.Tensor], sides: dict[str, str]) -> None:
    """Biases move as PEFT will move them: by v at a scaled output, and nowhere else."""
    changes = point.bias_changes()
    for module in sorted(set(scales) | set(changes)):
        bias = getattr(point.module(module), "bias", None)
        if bias is None:
            continue
        given = changes.get(module, torch.zeros(len(bias)))
        scaled = sides.get(module) == "output"
        wanted = (scales[module] - 1) * bias.detach().float().cpu() if scaled else torch.zeros(len(bias))
        if not torch.allclose(given, wanted, rtol=1e-5, atol=1e-6):
            raise NoAdapterError(f"the bias of {module} moves otherwise than a scale of its features moves it")
