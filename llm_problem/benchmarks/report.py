"""What a section finds: a table for people, figures for a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass
class Sheet:
    """One table: its title, columns, rows of text, and notes below."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Tables to print, and the raw figures (JSON values, numpy arrays) that they come from."""

    sheets: list[Sheet]
    figures: dict[str, Any]


def print_report(report: Report, console: Console) -> None:
    """Print every table with its notes."""
    for sheet in report.sheets:
        console.print(sheet.title, markup=False, highlight=False, style="bold")
        table = Table(show_lines=any("\n" in cell for row in sheet.rows for cell in row))
        for number, column in enumerate(sheet.columns):
            table.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)
        for note in sheet.notes:
            console.print(note, markup=False, highlight=False)
        console.print()


class FiguresFile:
    """A new JSON file that grows section by section, so that a run cut short leaves what it found.

    Raises:
        ValueError: the file exists, or cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], head: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.contents: dict[str, Any] = {**head, "sections": {}}
        try:
            with self.path.open("x", encoding="utf-8") as file:
                file.write(self._text())
        except FileExistsError:
            raise ValueError(f"{path} exists already and is not overwritten") from None
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror or error}") from None

    def add(self, section: str, figures: Mapping[str, Any]) -> None:
        """Write one section's figures; whoever reads sees the old file or the new one."""
        self.contents["sections"][section] = figures
        part = self.path.with_name(f"{self.path.name}.part-{os.getpid()}")
        part.write_text(self._text(), encoding="utf-8")
        part.replace(self.path)

    def _text(self) -> str:
        return json.dumps(self.contents, indent=2, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
