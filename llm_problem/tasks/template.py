"""Prompt templates: where the text goes, where the label goes, and what else a row has to show.

A template has `{text}` once and at most one `{label}`; without `{label}` the label stands at the end. Any other name in
braces is a column of the data. Braces that are meant are doubled; braces in the data are data.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field

TEXT, LABEL = "{text}", "{label}"


@dataclass(frozen=True)
class Template:
    """A checked template, and what a row has in the other columns that it shows."""

    template: str
    values: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise TypeError(f"the prompt must be a string, got {type(self.template).__name__}")
        try:
            parts = self._parts
        except ValueError as error:
            raise ValueError(
                f"the prompt cannot be read: {error} (braces that are meant are doubled): {self.template!r}"
            ) from None
        names = [name for _, name, _, _ in parts if name is not None]
        if names.count("text") != 1:
            raise ValueError(f"the prompt must contain {TEXT} exactly once, got {self.template!r}")
        if names.count("label") > 1:
            raise ValueError(f"the prompt must contain {LABEL} at most once, got {self.template!r}")
        if any(name is not None and (not name or form or conversion) for _, name, form, conversion in parts):
            raise ValueError(
                "between braces stands a column's name and nothing else (braces that are meant are doubled), got "
                f"{self.template!r}"
            )

    @property
    def _parts(self) -> list[tuple[str, str | None, str | None, str | None]]:
        return list(string.Formatter().parse(self.template))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it shows beside the text, each once."""
        names = (name for _, name, _, _ in self._parts if name is not None)
        return tuple(dict.fromkeys(name for name in names if name not in ("text", "label")))

    def of(self, values: Mapping[str, str]) -> Template:
        """The template of a row that has these columns."""
        return Template(self.template, values) if self.columns else self

    @property
    def ends_with_label(self) -> bool:
        return LABEL not in self.template or self.template.endswith(LABEL)

    def render(self, text: str) -> tuple[str, str]:
        """(what stands before the label, what stands after it)."""
        shown = {**self.values, "text": text}
        sides = ["", ""]
        side = 0
        for literal, name, _, _ in self._parts:
            sides[side] += literal
            if name == "label":
                side = 1
            elif name is not None:
                sides[side] += shown[name]
        return sides[0], sides[1]
