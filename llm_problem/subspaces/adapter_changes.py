"""What an adapter changes, by module, and the stored form that this is read from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Factors = tuple[torch.Tensor, torch.Tensor]  # B (out, r) and A (r, in)
# Of every kind: of training, or of where adapters are put. The stored tensors say all that is left of them.
NEUTRAL = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "fan_in_fan_out",  # PEFT corrects it to the kind of module it finds
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "target_modules",
        "task_type",
    }
)
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.")  # names that torch's wrappers put between others


@dataclass(eq=False)
class AdapterChanges:
    """Changes of weights, each by the module's name in the model that was adapted, float32.

    Attributes:
        factors: ΔW = B A.
        scales: l (out, 1) or (1, in), by which outputs (with their bias) or inputs are multiplied.
        biases: the change (out,) of a bias.
        whole: stored tensors that stand in for the pretrained ones, by their name in the module.
        sliced: whether a weight takes the first columns of an A that is wider than it.
    """

    factors: dict[str, Factors] = field(default_factory=dict)
    scales: dict[str, torch.Tensor] = field(default_factory=dict)
    biases: dict[str, torch.Tensor] = field(default_factory=dict)
    whole: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    sliced: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
        """Everything with its module's name, in a fixed order."""
        yield from sorted(self.factors.items(), key=_name)
        yield from ((name, (scale,)) for name, scale in sorted(self.scales.items(), key=_name))
        yield from ((f"{name}.bias", (bias,)) for name, bias in sorted(self.biases.items(), key=_name))
        for name, leaves in sorted(self.whole.items(), key=_name):
            yield from ((f"{name}.{leaf}", (tensor,)) for leaf, tensor in sorted(leaves.items(), key=_name))


@dataclass(frozen=True, eq=False)
class Stored:
    """An adapter's directory, its configuration, and its tensors by their names in the file."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    def require_plain(self, what: str, neutral: Iterable[str]) -> None:
        """Refuse settings that change what PEFT computes.

        Args:
            what: it would be without them.
            neutral: settings that do not, beside those of every kind.

        Raises:
            ValueError: names them.
        """
        known = NEUTRAL.union(neutral)
        found = [f"{name}={v!r}" for name, v in self.config.items() if name not in known and v and v != "none"]
        if found:
            raise ValueError(f"{self.folder} is more than {what}: its adapter_config.json has {some(found)}")

    def split(self, pattern: re.Pattern[str], what: str) -> tuple[dict[str, dict[str, torch.Tensor]], AdapterChanges]:
        """Module → part → tensor where a name matches, and changes that hold the modules that were saved whole.

        Args:
            pattern: with the group "module"; the others, joined by dots, are the part.
            what: the tensors that match, in words.

        Raises:
            ValueError: other tensors, named; modules that should have been saved and are not there.
        """
        saved = tuple(self.config.get("modules_to_save") or ())
        parts: dict[str, dict[str, torch.Tensor]] = {}
        changes, strange = AdapterChanges(), []
        for key, tensor in self.tensors.items():
            path, _, leaf = module_name(key).rpartition(".")
            if match := pattern.fullmatch(key):
                part = ".".join(found for name, found in match.groupdict().items() if name != "module")
                parts.setdefault(module_name(match["module"]), {})[part] = tensor.float()
            elif any(f".{path}".endswith(f".{name}") for name in saved):
                changes.whole.setdefault(path, {})[leaf] = tensor.float()
            else:
                strange.append(key)
        if strange:
            whole = any(".base_layer." in key for key in strange)
            raise ValueError(
                f"{self.folder} is more than {what}: it also holds {some(strange)}"
                + (": save it with save_pretrained(…, save_embedding_layers=False)" if whole else "")
            )
        if lost := [n for n in saved if not any(f".{path}".endswith(f".{n}") for path in changes.whole)]:
            raise ValueError(f"{self.folder} has modules_to_save={list(saved)} and no tensors of {some(lost)}")
        return parts, changes


def module_name(key: str) -> str:
    """Name of a module in the model that was adapted, without what PEFT and torch put around it."""
    name = key.removeprefix("base_model.model.")
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def some(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _name(item: tuple[str, Any]) -> str:
    return item[0]
