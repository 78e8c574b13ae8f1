"""A point of a low-rank subspace as a LoRA adapter (Hu et al. 2021, arXiv:2106.09685) that PEFT loads.

ΔW = left · core · right is a LoRA with B = left · core and A = right; alpha = r makes PEFT's factor alpha / r one.
Several targets inside one fused tensor stand beside one another: their ranks add up, and each B fills its own rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch

from llm_problem.export.folder import new_folder
from llm_problem.subspaces.deltas import Delta, LowRankDelta


def save_adapter(
    deltas: Sequence[Delta], directory: str | os.PathLike[str], *, base: str, task_type: str, card: str
) -> None:
    """Write adapter_config.json, adapter_model.safetensors and README.md into a new directory.

    Args:
        deltas: of one candidate.
        directory: must not exist.
        base: name or path of the pretrained model, for whoever loads the adapter.
        task_type: PEFT's, such as "CAUSAL_LM".
        card: contents of README.md.

    Raises:
        ValueError: a change that is not low rank.
        FileExistsError: the directory exists.
    """
    factors = lora_factors(deltas)
    rank = max(a.shape[0] for _, a, _ in factors.values())
    tensors: dict[str, torch.Tensor] = {}
    for module, (b, a, _) in factors.items():
        # Zero columns fill up to one common rank: exact, and no rank pattern is needed.
        tensors[f"base_model.model.{module}.lora_B.weight"] = _padded(b, (b.shape[0], rank))
        tensors[f"base_model.model.{module}.lora_A.weight"] = _padded(a, (rank, a.shape[1]))
    config = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(transposed for _, _, transposed in factors.values()),
        "target_modules": sorted(factors),
        "inference_mode": True,
    }
    from safetensors.torch import save_file

    with new_folder(directory) as folder:
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")


def lora_factors(deltas: Sequence[Delta]) -> dict[str, tuple[torch.Tensor, torch.Tensor, bool]]:
    """Module → (B (out, r), A (r, in), whether the module stores (in, out)), for the whole of each stored tensor."""
    parts: dict[str, list[LowRankDelta]] = {}
    for delta in deltas:
        if not isinstance(delta, LowRankDelta):
            raise ValueError(
                "only low-rank changes (LoRAXS) are a PEFT adapter; this subspace changes whole weights: "
                "use save_model(x, directory), which writes the whole model"
            )
        parts.setdefault(delta.parameter.removesuffix(".weight"), []).append(delta)
    return {module: _combined(group) for module, group in parts.items()}


def _combined(group: list[LowRankDelta]) -> tuple[torch.Tensor, torch.Tensor, bool]:
    first = group[0].target
    rows = [torch.as_tensor(d.target.rows) if d.target.rows is not None else None for d in group]
    out = first.stored_rows
    left: list[torch.Tensor] = []
    for delta, index in zip(group, rows, strict=True):
        b = delta.factors(0)[0].detach().float().cpu()  # (rows, r)
        left.append(b if index is None else torch.zeros(out, b.shape[1]).index_copy(0, index, b))
    right = torch.cat([delta.right.detach().float().cpu() for delta in group])
    return torch.cat(left, dim=1).contiguous(), right.contiguous(), first.transposed


def _padded(tensor: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    full: Any = torch.zeros(shape)
    full[: tensor.shape[0], : tensor.shape[1]] = tensor
    return full
