"""VeRA (Kopiczko, Blankevoort & Asano 2023, arXiv:2310.11454): two vectors for each weight, between shared matrices.

ΔW = diag(b) B diag(d) A. The matrices go into the file (PEFT would draw others), the vector that was not searched is
ones. PEFT gives a module one b and one d: where several projections are fused in one module, each fills its own rows of
b, and b is zero on the others; but projections that each have a d of their own share no module, and leave as LORA.
"""

from __future__ import annotations

import torch

from llm_problem.export.point import Adapter, NoAdapterError, Point, as_stored, named
from llm_problem.subspaces.deltas import FactorDelta, LowRankDelta


def vera(point: Point) -> Adapter:
    """The adapter of a point that moves vectors between matrices which all its weights share.

    Raises:
        NoAdapterError: the weights do not all share the same matrices, or one module would need two vectors d.
    """
    deltas = [delta for delta in point.deltas if isinstance(delta, LowRankDelta | FactorDelta)]
    parts = [delta.shared for delta in deltas if delta.shared is not None]
    left, right = parts[0].left, parts[0].right  # (out, r), (r, in)
    if any(part.left is not left or part.right is not right for part in parts):
        raise NoAdapterError("the weights do not all share the same two matrices")
    outer: dict[str, torch.Tensor] = {}
    inner: dict[str, torch.Tensor] = {}
    for delta, part in zip(deltas, parts, strict=True):
        module, target = delta.parameter.removesuffix(".weight"), delta.target
        d = torch.ones(len(right)) if part.inner is None else part.inner[0].detach().float().cpu()
        if not torch.equal(inner.setdefault(module, d), d):
            raise NoAdapterError(f"several projections with vectors of their own are fused in {module}")
        b = torch.ones(target.shape[0]) if part.outer is None else part.outer[0].detach().float().cpu()
        rows = slice(None) if target.rows is None else torch.as_tensor(target.rows)
        outer.setdefault(module, torch.zeros(target.stored_rows))[rows] = b
    config = {
        "r": len(right),
        "target_modules": sorted(outer),
        "vera_dropout": 0.0,
        "bias": "none",
        "save_projection": True,
        "fan_in_fan_out": deltas[0].target.transposed,
    }
    tensors = {"base_model.vera_A": as_stored(right.float()), "base_model.vera_B": as_stored(left.float())}
    for module in outer:
        tensors[f"{named(module)}.vera_lambda_b"] = outer[module]
        tensors[f"{named(module)}.vera_lambda_d"] = as_stored(inner[module])
    return Adapter("VERA", config, tensors)
