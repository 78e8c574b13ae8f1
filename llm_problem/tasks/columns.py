"""Prompts that are filled from the columns of a row: "Question: {question}\\nAnswer:"."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache


def fields(prompt: str) -> tuple[tuple[str, str | None], ...]:
    """(text, the name between braces that follows it, None at the end) of a prompt; doubled braces are single ones.

    Raises:
        TypeError: no string.
        ValueError: braces that do not close, or something else between them than a name.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"the prompt must be a string, got {type(prompt).__name__}")
    return _fields(prompt)


@lru_cache(maxsize=64)  # a prompt is filled for every row
def _fields(prompt: str) -> tuple[tuple[str, str | None], ...]:
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise ValueError(
            f"the prompt cannot be read: {error} (braces that are meant are doubled): {prompt!r}"
        ) from None
    if any(name is not None and (not name or form or conversion) for _, name, form, conversion in parts):
        raise ValueError(
            f"between braces stands a column's name and nothing else, got {prompt!r} "
            "(braces that are meant are doubled)"
        )
    return tuple((text, name) for text, name, _, _ in parts)


@dataclass(frozen=True)
class ColumnPrompt:
    """A checked prompt, `{column}` for what a row has there; braces that are meant are doubled, those in data are data.

    Raises:
        TypeError: no string.
        ValueError: braces that do not close, or something else between them than a name; no column at all.
    """

    prompt: str

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(f"the prompt must show a column, such as {{question}}, got {self.prompt!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it shows, each once."""
        names = (name for _, name in fields(self.prompt) if name is not None)
        return tuple(dict.fromkeys(names))

    def require(self, *names: str) -> None:
        """Raise ValueError where the prompt does not show one of these."""
        for name in names:
            if name not in self.columns:
                shown = ", ".join(f"{{{column}}}" for column in self.columns)
                raise ValueError(f"the prompt must show {{{name}}}, and it shows {shown}: {self.prompt!r}")

    def render(self, row: Mapping[str, str]) -> str:
        """The prompt for a row that has these columns."""
        return "".join(text + ("" if name is None else row[name]) for text, name in fields(self.prompt))

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
    opened = False

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
