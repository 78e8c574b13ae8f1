"""Prompts that are filled from the columns of a row: "Question: {question}\\nAnswer:"."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnPrompt:
    """A checked prompt, `{column}` for what a row has there; braces that are meant are doubled, those in data are data.

    Raises:
        TypeError: no string.
        ValueError: braces that do not close, or something else between them than a name; no column at all.
    """

    prompt: str

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"the prompt must be a string, got {type(self.prompt).__name__}")
        try:
            parts = list(string.Formatter().parse(self.prompt))
        except ValueError as error:
            raise ValueError(
                f"the prompt cannot be read: {error} (braces that are meant are doubled): {self.prompt!r}"
            ) from None
        for _, name, form, conversion in parts:
            if name is not None and (not name or form or conversion):
                raise ValueError(f"between braces stands a column's name and nothing else, got {self.prompt!r}")
        if not self.columns:
            raise ValueError(f"the prompt must show a column, such as {{question}}, got {self.prompt!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it shows, each once."""
        names = (name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None)
        return tuple(dict.fromkeys(names))

    def require(self, *names: str) -> None:
        """Raise ValueError where the prompt does not show one of these."""
        for name in names:
            if name not in self.columns:
                shown = ", ".join(f"{{{column}}}" for column in self.columns)
                raise ValueError(f"the prompt must show {{{name}}}, and it shows {shown}: {self.prompt!r}")

    def render(self, row: Mapping[str, str]) -> str:
        """The prompt for a row that has these columns."""
        return "".join(
            text + ("" if name is None else row[name]) for text, name, _, _ in string.Formatter().parse(self.prompt)
        )

    def content(self, row: Mapping[str, str]) -> str:
        """What the prompt shows of a row, for a split by hash: it does not change where the wording around it does."""
        return "\x1f".join(row[name] for name in self.columns)


@dataclass(frozen=True)
class FilledPrompt:
    """The prompt of one row, in the form that `verbalizer` writes; `cut` is the column that may be shortened."""

    prompt: ColumnPrompt
    row: Mapping[str, str]
    cut: str | None = None
    ends_with_label = True

    @property
    def template(self) -> str:
        return self.prompt.prompt

    @property
    def text(self) -> str:
        """What may be shortened."""
        return self.row[self.cut] if self.cut else ""

    def render(self, text: str) -> tuple[str, str]:
        """(the prompt with this much of the text, what stands after the answer: nothing)."""
        return self.prompt.render({**self.row, self.cut: text} if self.cut else self.row), ""
