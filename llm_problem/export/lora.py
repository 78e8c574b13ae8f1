"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank changes of any kind, biases and norms beside them.

ΔW = B A at the exact rank r, with B what x moves and A the frozen right factor; alpha = r makes PEFT's factor alpha / r
one. Several targets inside one fused tensor stand beside one another: their ranks add up, and each B fills its own
rows. A moved bias b is PEFT's `lora_bias`, y = W x + B A x + b, with A and B zero where nothing else moves; a moved
norm is stored whole (`modules_to_save`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_problem.export.point import NORMS, Adapter, NoAdapterError, Point, named
from llm_problem.models.targets import module_target
from llm_problem.subspaces.deltas import Delta, FactorDelta, LowRankDelta

Factors = tuple[torch.Tensor, torch.Tensor, bool]
"""B (out, r), A (r, in), and whether the module stores its weight as (in, out)."""


def lora(point: Point) -> Adapter:
    """The adapter of a point that changes weights by products of factors, and perhaps biases and norms.

    Raises:
        NoAdapterError: a bias moves, and another module that moves has none (PEFT could not merge that).
    """
    factors, biases = lora_factors(point.deltas), point.bias_changes()
    for module in biases:
        factors.setdefault(module, _nothing(point, module))
    rank = max(a.shape[0] for _, a, _ in factors.values())
    tensors: dict[str, torch.Tensor] = {}
    for module, (b, a, _) in factors.items():
        # Zero columns fill up to one common rank: exact, and no rank pattern is needed.
        tensors[f"{named(module)}.lora_B.weight"] = _padded(b, (b.shape[0], rank))
        tensors[f"{named(module)}.lora_A.weight"] = _padded(a, (rank, a.shape[1]))
        if biases:
            if getattr(point.module(module), "bias", None) is None:
                raise NoAdapterError(f"biases move, and {module}, whose weight moves too, has none")
            bias = biases.get(module)
            tensors[f"{named(module)}.lora_B.bias"] = torch.zeros(b.shape[0]) if bias is None else bias
    norms = point.modules_with(NORMS)
    for module in norms:
        tensors |= {f"{named(module)}.{leaf}": tensor for leaf, tensor in point.stored(module).items()}
    config = {
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "lora_bias": bool(biases),
        "fan_in_fan_out": any(transposed for _, _, transposed in factors.values()),
        "target_modules": sorted(factors),
        "modules_to_save": norms or None,
    }
    return Adapter("LORA", config, tensors)


def lora_factors(deltas: Sequence[Delta]) -> dict[str, Factors]:
    """Module → the factors of the whole of its stored weight, of the low-rank changes among `deltas`."""
    parts: dict[str, list[LowRankDelta | FactorDelta]] = {}
    for delta in deltas:
        if isinstance(delta, LowRankDelta | FactorDelta):
            parts.setdefault(delta.parameter.removesuffix(".weight"), []).append(delta)
    return {module: _combined(group) for module, group in parts.items()}


def _combined(group: list[LowRankDelta | FactorDelta]) -> Factors:
    first = group[0].target
    out = first.stored_rows
    left: list[torch.Tensor] = []
    for delta in group:
        b = delta.factors(0)[0].detach().float().cpu()  # (rows, r)
        rows = delta.target.rows
        left.append(b if rows is None else torch.zeros(out, b.shape[1]).index_copy(0, torch.as_tensor(rows), b))
    right = torch.cat([delta.right.detach().float().cpu() for delta in group])
    return torch.cat(left, dim=1).contiguous(), right.contiguous(), first.transposed


def _nothing(point: Point, path: str) -> Factors:
    """Factors of rank 1 that leave the weight of a module as it is."""
    target = module_target(point.loaded.model, path)
    assert target is not None  # a bias is one of `BIASES` beside a weight only
    out, inside = target.shape
    return torch.zeros(out, 1), torch.zeros(1, inside), target.transposed


def _padded(tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    full = torch.zeros(shape)
    full[: tensor.shape[0], : tensor.shape[1]] = tensor
    return full
