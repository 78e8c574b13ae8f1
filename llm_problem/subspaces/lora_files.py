"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685) as PEFT stores them: ΔW = s · B A, s = alpha / r (or alpha / √r).

Files are read as JSON and safetensors, never unpickled. Whatever would make PEFT compute something else than W + s B A
is refused by name, settings that are not known here included.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings of training, or of where adapters are put: the stored tensors say all that is left of them.
_NEUTRAL = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",  # PEFT corrects it to the kind of module it finds
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
}
# Other ways to start change the pretrained weights as well.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_KEY = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.[^.]+)?\.weight")
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.")  # names that torch's wrappers put between others


@dataclass(frozen=True)
class AdapterFolder:
    """A directory with a LoRA adapter, and the sha256 of its changes s B A: one that has changed since is refused."""

    source: str
    sha256: str

    @classmethod
    def of(cls, where: Any) -> AdapterFolder:
        """Describe a directory, or what a JSON description holds of one.

        Raises:
            TypeError: neither of these.
            ValueError: no adapter there that can be read, or more than a LoRA of weight matrices.
        """
        if isinstance(where, cls):
            return where
        if isinstance(where, Mapping) and set(where) == {"source", "sha256"}:
            return cls(str(where["source"]), str(where["sha256"]))
        if not isinstance(where, (str, os.PathLike)):
            raise TypeError(f"an adapter must be a directory, got {type(where).__name__}")
        folder = Path(where).expanduser().absolute()
        return cls(str(folder), _digest(read_lora(folder)))

    def read(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Module → s B (out, r) and A (r, in), float32.

        Raises:
            ValueError: the files have changed, or hold something else than a LoRA.
        """
        factors = read_lora(Path(self.source))
        if (found := _digest(factors)) != self.sha256:
            raise ValueError(f"the adapter in {self.source} has changed: sha256 {found}, expected {self.sha256}")
        return factors


def read_lora(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module → s B (out, r) and A (r, in), float32, of the adapter in a directory; errors as for `AdapterFolder`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_files(folder)
    config = _checked_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read as safetensors: {error}") from None
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    strange = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.ndim != 2:
            strange.append(key)
        else:
            pairs.setdefault(_module_name(match["module"]), {})[match["side"]] = tensor.float()
    if strange:
        whole = any(".base_layer." in key for key in strange)
        raise ValueError(
            f"{folder} is more than a LoRA of weight matrices: it also holds {_some(strange)}"
            + (": save it with save_pretrained(…, save_embedding_layers=False)" if whole else "")
        )
    if incomplete := [module for module, pair in pairs.items() if len(pair) != 2]:
        raise ValueError(f"{folder} has only one of lora_A and lora_B for {_some(incomplete)}")
    if not pairs:
        raise ValueError(f"{folder / WEIGHTS} is empty: it holds no lora_A and lora_B")
    factors = {module: _scaled(folder, config, module, pair["B"], pair["A"]) for module, pair in pairs.items()}
    if wild := [module for module, (b, a) in factors.items() if not (b.isfinite().all() and a.isfinite().all())]:
        raise ValueError(f"{folder} has numbers that are not finite, in {_some(wild)}")  # 0 times it would not be 0
    return factors


def _scaled(
    folder: Path, config: dict[str, Any], module: str, b: torch.Tensor, a: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    try:  # 8 is what PEFT takes where none is given
        r = _pattern_value(config.get("rank_pattern"), module, config.get("r", 8))
        alpha = float(_pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise ValueError(f"{folder / CONFIG} has a rank or an alpha of {module} that cannot be read: {error}") from None
    if b.shape[1] != r or a.shape[0] != r:
        raise ValueError(
            f"{folder}: {CONFIG} gives {module} rank {r}, but lora_B has shape {tuple(b.shape)} and lora_A "
            f"{tuple(a.shape)}"
        )
    return b * (alpha / (math.sqrt(r) if config.get("use_rslora") else r)), a


def _pattern_value(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of the first pattern that the end of a module's name matches, as PEFT looks them up."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def _module_name(key: str) -> str:
    """Name of a module in the model that was adapted, without what PEFT and torch put around it."""
    name = key.removeprefix("base_model.model.")
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _checked_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is not JSON: {error}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ValueError(f"only LoRA adapters can be mixed, {folder} is one of type {kind}")
    start = config.get("init_lora_weights")
    if start not in _STARTS:
        raise ValueError(
            f"{folder} was trained with init_lora_weights={start!r}, which changes the pretrained weights too: save it "
            "as a plain LoRA (path_initial_model_for_weight_conversion of PEFT's save_pretrained)"
        )
    found = [
        f"{name}={value!r}"
        for name, value in config.items()
        if name not in _NEUTRAL and name != "init_lora_weights" and value and value != "none"
    ]
    if found:
        raise ValueError(f"{folder} is more than a plain LoRA: its {CONFIG} has {_some(found)}")
    return config


def _require_files(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no directory with an adapter ({CONFIG} and {WEIGHTS}); one on a hub is downloaded first, "
            "with huggingface_hub.snapshot_download(…)"
        )
    if not (folder / WEIGHTS).is_file() and (folder / "adapter_model.bin").exists():
        raise ValueError(
            f"{folder} has only adapter_model.bin, which is not read: such files can run code. Load it where you trust "
            "it and save it again with model.save_pretrained(...)"
        )
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        inside = sorted(str(found.parent) for found in folder.glob(f"*/{CONFIG}"))  # PEFT's for a name of one's own
        raise ValueError(
            f"{folder} is no adapter: it has no {' and no '.join(missing)}"
            + (f"; there is one in {_some(inside)}" if inside else "")
        )


def _digest(factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> str:
    """sha256 over the modules' names and factors (64 hex digits)."""
    digest = hashlib.sha256()
    for module, pair in sorted(factors.items()):
        for tensor in pair:
            digest.update(f"{module} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
