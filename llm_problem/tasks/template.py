"""Prompt templates: where the text goes, where the label goes, and what else a row has to show.

A template has `{text}` once and at most one `{label}`; without `{label}` the label stands at the end. Any other name in
braces is a column of the data. Braces that are meant are doubled; braces in the data are data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from llm_problem.tasks.columns import fields

TEXT, LABEL = "text", "label"


@dataclass(frozen=True)
class Template:
    """A checked template, and what a row has in the other columns that it shows."""

    template: str
    values: Mapping[str, str] = field(default_factory=dict)
    opened: ClassVar[bool] = False

    def __post_init__(self) -> None:
        names = [name for _, name in fields(self.template)]
        if names.count(TEXT) != 1:
            raise ValueError(f"the prompt must contain {{{TEXT}}} exactly once, got {self.template!r}")
        if names.count(LABEL) > 1:
            raise ValueError(f"the prompt must contain {{{LABEL}}} at most once, got {self.template!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it shows beside the text, each once."""
        names = (name for _, name in fields(self.template) if name not in (None, TEXT, LABEL))
        return tuple(dict.fromkeys(names))

    def of(self, values: Mapping[str, str]) -> Template:
        """The template of a row that has these columns."""
        return Template(self.template, values) if self.columns else self

    @property
    def ends_with_label(self) -> bool:
        names = [name for _, name in fields(self.template)]
        return LABEL not in names or names[-1] == LABEL

    def render(self, text: str) -> tuple[str, str]:
        """(what stands before the label, what stands after it)."""
        shown = {**self.values, TEXT: text, LABEL: ""}
        parts = fields(self.template)
        written = [literal + ("" if name is None else shown[name]) for literal, name in parts]
        names = [name for _, name in parts]
        end = names.index(LABEL) + 1 if LABEL in names else len(parts)
        return "".join(written[:end]), "".join(written[end:])
