"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as PEFT stores them: ΔW = s B A, s = alpha / r (or alpha / √r).

With `lora_bias`, B brings a bias of its own, which s multiplies too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from llm_problem.subspaces.adapter_changes import AdapterChanges, Stored, some

_NEUTRAL = (  # settings of training: the stored tensors say all that is left of them
    "alpha_pattern",
    "eva_config",
    "init_lora_weights",
    "loftq_config",
    "lora_alpha",
    "lora_bias",
    "lora_dropout",
    "megatron_core",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "runtime_config",
    "use_rslora",
)
# Other ways to start change the pretrained weights as well.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.[^.]+)?\.(?P<leaf>weight|bias)")


def read_lora(stored: Stored) -> AdapterChanges:
    """The changes of a LORA adapter.

    Raises:
        ValueError: more than a LoRA of weight matrices, or one whose ranks do not fit its configuration.
    """
    folder, start = stored.folder, stored.config.get("init_lora_weights")
    if start not in _STARTS:
        raise ValueError(
            f"{folder} was trained with init_lora_weights={start!r}, which changes the pretrained weights too: save it "
            "as a plain LoRA (path_initial_model_for_weight_conversion of PEFT's save_pretrained)"
        )
    stored.require_plain("a plain LoRA", _NEUTRAL)
    parts, changes = stored.split(_KEY, "a LoRA of weight matrices")
    if strange := [m for m, p in parts.items() if "A.bias" in p or any(p[k].ndim != 2 for k in p if "weight" in k)]:
        raise ValueError(f"{folder} is more than a LoRA of weight matrices: what it holds for {some(strange)} is none")
    if incomplete := [module for module, p in parts.items() if not {"A.weight", "B.weight"} <= set(p)]:
        raise ValueError(f"{folder} has only one of lora_A and lora_B for {some(incomplete)}")
    for module, part in parts.items():
        b, a = part["B.weight"], part["A.weight"]
        s = _scaling(stored, module, b, a)
        changes.factors[module] = b * s, a
        if "B.bias" in part:
            changes.biases[module] = part["B.bias"] * s
    return changes


def _scaling(stored: Stored, module: str, b: torch.Tensor, a: torch.Tensor) -> float:
    """s of a module."""
    config, where = stored.config, stored.folder / "adapter_config.json"
    try:  # 8 is what PEFT takes where none is given
        r = _pattern_value(config.get("rank_pattern"), module, config.get("r", 8))
        alpha = float(_pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise ValueError(f"{where} has a rank or an alpha of {module} that cannot be read: {error}") from None
    if b.shape[1] != r or a.shape[0] != r:
        raise ValueError(
            f"{stored.folder}: adapter_config.json gives {module} rank {r}, but lora_B has shape {tuple(b.shape)} and "
            f"lora_A {tuple(a.shape)}"
        )
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _pattern_value(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that the end of a module's name matches, as PEFT looks them up."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise
