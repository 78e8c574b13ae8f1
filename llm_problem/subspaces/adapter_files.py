"""Adapters as PEFT stores them: a directory of JSON and safetensors, read as changes of a model's weights.

Nothing is unpickled. Whatever would make PEFT compute something else than the changes that are read is refused by name,
settings that are not known here included.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_problem.subspaces.adapter_changes import AdapterChanges, Stored, some
from llm_problem.subspaces.adapter_kinds import read_ia3, read_ln_tuning, read_vera
from llm_problem.subspaces.lora_files import read_lora

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
READERS: dict[str, Callable[[Stored], AdapterChanges]] = {
    "LORA": read_lora,
    "VERA": read_vera,
    "IA3": read_ia3,
    "LN_TUNING": read_ln_tuning,
}
"""PEFT's types whose adapter is a fixed change of weights, and who reads that."""
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")


@dataclass(frozen=True)
class AdapterFolder:
    """A directory with an adapter, and the sha256 of its changes: one that has changed since is refused."""

    source: str
    sha256: str

    @classmethod
    def of(cls, where: Any) -> AdapterFolder:
        """Describe a directory, or what a JSON description holds of one.

        Raises:
            TypeError: neither of these.
            ValueError: no adapter there that can be read, or one that is more than changes of weights.
        """
        if isinstance(where, cls):
            return where
        if isinstance(where, Mapping) and set(where) == {"source", "sha256"}:
            return cls(str(where["source"]), str(where["sha256"]))
        if not isinstance(where, (str, os.PathLike)):
            raise TypeError(f"an adapter must be a directory, got {type(where).__name__}")
        folder = Path(where).expanduser().absolute()
        return cls(str(folder), _digest(read_adapter(folder)))

    def read(self) -> AdapterChanges:
        """The changes.

        Raises:
            ValueError: the files have changed, or hold something else than changes of weights.
        """
        changes = read_adapter(Path(self.source))
        if (found := _digest(changes)) != self.sha256:
            raise ValueError(f"the adapter in {self.source} has changed: sha256 {found}, expected {self.sha256}")
        return changes


def read_adapter(folder: Path) -> AdapterChanges:
    """The changes of the adapter in a directory; errors as for `AdapterFolder`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_files(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is not JSON: {error}") from None
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind not in READERS:
        *first, last = READERS
        other = "; others once PEFT has merged them, as models (ModelMix)"
        if kind is None:
            other = ""
        elif kind in _PROMPTS:
            other = "; prompts are not mixed, but searched (SoftPrompt, Prefix)"
        raise ValueError(
            f"adapters of type {', '.join(first)} and {last} can be mixed{other}: {folder} is one of type {kind}"
        )
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read as safetensors: {error}") from None
    if not tensors:
        raise ValueError(f"{folder / WEIGHTS} is empty: it holds no tensors of an adapter")
    changes = READERS[kind](Stored(folder, config, tensors))
    if wild := [name for name, tensors in changes.tensors() if not all(t.isfinite().all() for t in tensors)]:
        raise ValueError(f"{folder} has numbers that are not finite, in {some(wild)}")  # 0 times it would not be 0
    return changes


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
            + (f"; there is one in {some(inside)}" if inside else "")
        )


def _digest(changes: AdapterChanges) -> str:
    """sha256 over names and tensors (64 hex digits)."""
    digest = hashlib.sha256()
    for name, tensors in changes.tensors():
        for tensor in tensors:
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
