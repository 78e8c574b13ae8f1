"""Constructors of tasks whose examples are rows: of CSV and JSONL files, and in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any, Self

from llm_problem.tasks.data import Data, Record
from llm_problem.tasks.rows import EmptySplit, warn_of_shared


class FromFiles:
    """For a task whose first field is `data`, which has `dev` and `test`, and whose `examples(split)` reads a split."""

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, dev: Any = None, test: Any = None, **options: Any) -> Self:
        """From a CSV (or .tsv, .jsonl) file with a header; `dev` and `test` are files of the same columns.

        Raises:
            ValueError: a file that cannot be read, a missing column, a row that does not fit the task.
        """
        return cls._checked(Data.of(path), dev=dev, test=test, **options)

    @classmethod
    def from_jsonl(cls, path: str | os.PathLike[str], *, dev: Any = None, test: Any = None, **options: Any) -> Self:
        """From files with a JSON object a line, whatever their names end in; otherwise as `from_csv`."""
        options["dev"], options["test"] = (None if file is None else Data.of(file, "jsonl") for file in (dev, test))
        return cls._checked(Data.of(path, "jsonl"), **options)

    @classmethod
    def from_records(cls, records: Iterable[Record], **options: Any) -> Self:
        """From dictionaries in memory, or a DataFrame; options as for `from_csv`."""
        return cls._checked(Data.of(records), **options)

    @classmethod
    def _checked(cls, data: Data, **options: Any) -> Self:
        """A task that could read its search split, and what was given for the others."""
        task: Any = cls(data, **options)  # type: ignore[call-arg]
        for split, given in (("search", task.data), ("dev", task.dev), ("test", task.test)):
            if given is not None:
                task.examples(split)
        if task.split is not None or task.dev is not None or task.test is not None:
            warn_of_shared(task._rows, task._shown_prompt)
        for split in ("dev", "test"):  # a bad row is found now, and not when the search is over
            with contextlib.suppress(EmptySplit):
                task.examples(split)
        return task
