"""Results of an experiment in a file: one JSON object a line, so that a stopped one goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Records:
    """The runs of an experiment, by what identifies them.

    Args:
        path: the file, made when the first run ends; None keeps nothing.
        key: names of the fields that tell runs apart.
    """

    def __init__(self, path: str | os.PathLike[str] | None, key: tuple[str, ...]) -> None:
        self.path, self.key = None if path is None else Path(path), key
        self._found: dict[tuple, Record] = {}
        if self.path is not None and self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            # A last line without its end was cut off while it was written: that run is done again.
            whole = text[: text.rfind("\n") + 1]
            for line in whole.splitlines():
                record = json.loads(line)
                self._found[self._id(record)] = record
            if whole != text:
                self.path.write_text(whole, encoding="utf-8")

    def run(self, identity: Record, make: Callable[[], Record]) -> Record:
        """The record with this identity: from the file, or made now and written."""
        key = self._id(identity)
        if key not in self._found:
            record = {**identity, **make()}
            self._found[key] = record
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
        return self._found[key]

    def all(self) -> list[Record]:
        """Every run that is there."""
        return list(self._found.values())

    def __contains__(self, identity: Record) -> bool:
        """Whether the run with this identity is there."""
        return self._id(identity) in self._found

    def _id(self, record: Record) -> tuple:
        return tuple(record[name] for name in self.key)
