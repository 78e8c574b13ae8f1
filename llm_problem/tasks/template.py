"""Prompt templates: where the text goes, where the label goes.

A template is plain text with `{text}` once and at most one `{label}`; without `{label}` the label stands at the end.
Braces in the data are data.
"""

from __future__ import annotations

from dataclasses import dataclass

TEXT, LABEL = "{text}", "{label}"


@dataclass(frozen=True)
class Template:
    """A checked template, split at its fields."""

    template: str

    def __post_init__(self) -> None:
        if not isinstance(self.template, str):
            raise TypeError(f"the prompt must be a string, got {type(self.template).__name__}")
        if self.template.count(TEXT) != 1:
            raise ValueError(f"the prompt must contain {TEXT} exactly once, got {self.template!r}")
        if self.template.count(LABEL) > 1:
            raise ValueError(f"the prompt must contain {LABEL} at most once, got {self.template!r}")

    @property
    def ends_with_label(self) -> bool:
        return LABEL not in self.template or self.template.endswith(LABEL)

    def render(self, text: str) -> tuple[str, str]:
        """(what stands before the label, what stands after it)."""
        before, _, after = self.template.partition(LABEL)
        return before.replace(TEXT, text, 1), after.replace(TEXT, text, 1)
