"""Constructors of tasks whose examples are rows: of CSV and JSONL files, and in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any, Self

from llm_problem.tasks.data import Data, Record
from llm_problem.tasks.rows import EmptySplit, warn_of_shared
from llm_problem.tasks.splits import SPLITS


class FromFiles:
    """For a task whose first field is `data`, which has `dev` and `test`, and whose `examples(split)` reads a split."""

    def check_rows(self, split: str) -> None:
        """Read a split that has no source of its own."""
        self.examples(split)  # type: ignore[attr-defined]

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, dev: Any = None, test: Any = None, **options: Any) -> Self:
        """From a CSV (or .tsv, .jsonl) file with a header; `dev` and `test` are files of the same columns.

        Raises:
            ValueError: a file that cannot be read, a missing column, a row that does not fit the task.
        """
        return checked(cls(Data.of(path), dev=dev, test=test, **options))  # type: ignore[call-arg]

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], *, dev: Any = None, test: Any = None, **options: Any) -> Self:
        """From files with a JSON object a line, whatever their names end in; otherwise as `from_csv`."""
        options["dev"], options["test"] = (None if file is None else Data.of(file, "jsonl") for file in (dev, test))
        return checked(cls(Data.of(path, "jsonl"), **options))  # type: ignore[call-arg]

    @classmethod
    def from_records(cls, records: Iterable[Record], **options: Any) -> Self:
        """From dictionaries in memory, or a DataFrame; options as for `from_csv`."""
        return checked(cls(Data.of(records), **options))  # type: ignore[call-arg]


def checked(task: Any) -> Any:
    """The task, once all its rows could be read: a bad one is found now, and not when the search is over."""
    for split in SPLITS:
        if split == "search" or getattr(task, split) is not None:
            task.examples(split)
        else:
            with contextlib.suppress(EmptySplit):
                task.check_rows(split)
    if task.split is not None or task.dev is not None or task.test is not None:
        warn_of_shared(task)
    return task
