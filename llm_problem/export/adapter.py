"""A point of any subspace as the PEFT adapter that holds exactly what it changes, where there is one.

Which type that is follows from what the point changes, not from the subspace it is of: a new subspace whose changes are
of known kinds needs nothing here. A new type is a function `Point -> Adapter` in a file of its own, and a row below.

LoRA-XS, TinyLoRA, singular values and mixed adapters leave as LORA, which holds any product of factors as it is. PEFT's
own TINYLORA would not do: it computes its singular vectors anew where the adapter is loaded, and those differ between
machines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from llm_problem.export.ia3 import ia3
from llm_problem.export.ln_tuning import ln_tuning
from llm_problem.export.lora import lora
from llm_problem.export.point import (
    BIASES,
    LOW_RANK,
    NORMS,
    PREFIX,
    PROMPT,
    SCALES,
    SHARED,
    Adapter,
    NoAdapterError,
    Point,
)
from llm_problem.export.prefix_tuning import prefix_tuning
from llm_problem.export.prompt_tuning import prompt_tuning
from llm_problem.export.vera import vera
from llm_problem.models.quantised import kinds as quantised_kinds
from llm_problem.new_folder import new_folder
from llm_problem.subspaces.deltas import WeightChange

TYPES: tuple[tuple[set[str], Callable[[Point], Adapter]], ...] = (
    ({NORMS}, ln_tuning),
    ({SHARED}, vera),
    ({SHARED, LOW_RANK, BIASES, NORMS}, lora),
    ({SCALES, BIASES}, ia3),
    ({PROMPT}, prompt_tuning),
    ({PREFIX}, prefix_tuning),
)
"""What an adapter of each type can hold; the first that holds all of it exactly is taken."""

_TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "masked": "FEATURE_EXTRACTION"}
_KEEP = (
    "keep x with the problem's description (text = problem.spec.to_json()) and its basis (problem.save_basis(path)), "
    "from which Problem.from_spec(text, basis=path) makes the same problem again"
)


def adapter_of(point: Point) -> Adapter:
    """The adapter that a point is.

    Raises:
        ValueError: there is none, and what to do instead.
    """
    why = NoAdapterError(f"no PEFT adapter holds {listed(point.kinds)} exactly")
    for holds, make in TYPES:
        if point.kinds <= holds:
            try:
                _require_unshared(point)
                return make(point)
            except NoAdapterError as error:
                why = error
    raise ValueError(f"{why}: {_instead_of_an_adapter(point)}") from why


def require_mergeable(point: Point) -> None:
    """A point that is weights and nothing else, of a model that is not quantised.

    Raises:
        ValueError: another one, and what to do instead.
    """
    if prompts := point.kinds & {PROMPT, PREFIX}:
        instead = _KEEP if point.kinds - prompts else "use save_adapter(x, directory), which writes a PEFT adapter"
        raise ValueError(f"{listed(prompts)} cannot be merged into weights: {instead}")
    if found := quantised_kinds(point.loaded.model):
        raise ValueError(f"a quantised model ({', '.join(found)}) cannot be merged: {instead_of_a_model(point)}")


def instead_of_a_model(point: Point) -> str:
    """What works for a point that is not saved as a whole model."""
    try:
        adapter_of(point)
    except ValueError:
        return _KEEP
    return "use save_adapter(x, directory)"


def write_adapter(adapter: Adapter, point: Point, directory: str | os.PathLike[str], *, base: str, card: str) -> None:
    """Write adapter_config.json, adapter_model.safetensors and README.md into a new directory.

    Args:
        adapter: of `adapter_of`.
        point: the same point.
        directory: must not exist.
        base: name or path of the pretrained model, for whoever loads the adapter.
        card: contents of README.md.

    Raises:
        FileExistsError: the directory exists.
    """
    from safetensors.torch import save_file

    config = {
        "peft_type": adapter.peft_type,
        "task_type": _TASKS[point.loaded.kind],
        "base_model_name_or_path": base,
        **adapter.config,
        "inference_mode": True,
    }
    with new_folder(directory) as folder:
        save_file(adapter.tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(card, encoding="utf-8")


def listed(kinds: set[str]) -> str:
    """Kinds of change as a phrase."""
    *first, last = sorted(kinds)
    return f"{', '.join(first)} and {last}" if first else last


def _require_unshared(point: Point) -> None:
    """No tensor that moves is that of several modules: an adapter changes what one of them does.

    Raises:
        NoAdapterError: one is.
    """
    moved = {delta.parameter for delta in point.deltas if isinstance(delta, WeightChange)}
    users: dict[int, list[str]] = {}
    for path, module in point.loaded.model.named_modules():
        for parameter in module._parameters.values():
            users.setdefault(id(parameter), []).append(path)
    for name, parameter in point.loaded.model.named_parameters():
        if name in moved and len(users[id(parameter)]) > 1:
            raise NoAdapterError(
                f"{' and '.join(users[id(parameter)])} share a weight, and an adapter moves one of them"
            )


def _instead_of_an_adapter(point: Point) -> str:
    if point.kinds & {PROMPT, PREFIX}:
        if len(point.kinds) > 1:
            return f"a part of it on the pretrained model would be another model; {_KEEP}"
        return _KEEP
    if quantised_kinds(point.loaded.model):
        return f"and a quantised model cannot be merged either; {_KEEP}"
    return "use save_model(x, directory), or export --merged, which writes the whole model"
