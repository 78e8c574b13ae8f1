"""Which rows of a task's data belong to a split.

A split comes from a file of its own where the task has one, else from the rows whose `split` column says so, else from
those whose content falls into its share by a hash.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llm_problem.tasks.data import Data
from llm_problem.tasks.splits import SHARES, SPLITS, checked_shares, require_split, split_by_content


class UnusableSplit(ValueError):
    """Nothing can be measured on a split: it is empty, or has a single class."""


class EmptySplit(UnusableSplit):
    """The data have no example for a split, or too little text."""


class FromRows(Protocol):
    """What a task says of its data."""

    @property
    def data(self) -> Data: ...
    @property
    def dev(self) -> Data | None: ...
    @property
    def test(self) -> Data | None: ...
    @property
    def split(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def shares(self) -> tuple[float, float, float]: ...


@dataclass(frozen=True)
class Row:
    """An example as it stands in the data; `number` counts the rows of its source from 1."""

    values: Mapping[str, str]
    number: int
    data: Data
    group: str | None = None

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    @property
    def where(self) -> str:
        """For messages: the source and the number."""
        return f"{self.data.label}, example {self.number}"


def several(value: str) -> bool:
    """Whether a column's value is a list of texts, which records and JSON give as JSON."""
    try:
        found = json.loads(value) if value.startswith("[") else None
    except json.JSONDecodeError:
        return False
    return isinstance(found, list) and any(isinstance(text, str) for text in found)


def check_sources(task: Any) -> None:
    """Make `data`, `dev` and `test` of a task `Data`, and check `split`, `group` and `shares`.

    Raises:
        ValueError: data that cannot be read; shares that are none, or have nothing to divide.
    """
    for name in ("data", "dev", "test"):
        if getattr(task, name) is not None:
            object.__setattr__(task, name, Data.of(getattr(task, name)))
    object.__setattr__(task, "shares", checked_shares(task.shares))
    if task.shares != SHARES and (task.split is not None or (task.dev is not None and task.test is not None)):
        raise ValueError("shares divide rows by a hash of their content, and here the data say what each split is")


def rows_of(
    task: FromRows, split: str, columns: Sequence[str], content: Callable[[Mapping[str, str]], str]
) -> list[Row]:
    """The rows of a split, in file order.

    Args:
        task: its data.
        split: search, dev or test.
        columns: those that every row must have, beside the ones that `task` names.
        content: row → what a split by hash goes by, where no `group` does. What it leaves out (a label, say) can be
            corrected without moving the row.

    Raises:
        ValueError: another split, a missing column, a `split` column that says something else.
        EmptySplit: no rows.
    """
    own = {"dev": task.dev, "test": task.test}.get(require_split(split))
    data = own or task.data
    named = [*columns, *([task.split] if task.split and own is None else []), *([task.group] if task.group else [])]
    rows = [
        Row(values, number, data, values[task.group] if task.group else None)
        for number, values in enumerate(data.rows(named), start=1)
    ]
    found = [row for row in rows if own is not None or _split_of(task, row, content) == split]
    if not found:
        raise EmptySplit(f"the {split} split is empty: {data.label} has no example for it")
    return found


def warn_of_shared(task: Any) -> None:
    """Warn of examples, or groups, that stand in two splits of a task: what the data say is done, and said."""
    found: dict[str, list[Row]] = {}
    for split in SPLITS:
        with contextlib.suppress(EmptySplit):
            found[split] = task._rows(split)
    shown = {split: [task._shown_prompt(row) for row in rows] for split, rows in found.items()}
    for first, second in itertools.combinations(found, 2):
        seen = set(shown[first])
        shared = sum(prompt in seen for prompt in shown[second])
        groups = {row.group for row in found[first]} & {row.group for row in found[second]} - {None}
        what = f"{shared} of its {len(found[second])} examples" if shared else f"{len(groups)} of its groups"
        if shared or groups:
            warnings.warn(
                f"the {second} split shares {what} with the {first} split: a score on one says little of the other",
                stacklevel=4,
            )


def _split_of(task: FromRows, row: Row, content: Callable[[Mapping[str, str]], str]) -> str:
    if task.split is None:
        others = [name for name in ("dev", "test") if getattr(task, name) is not None]
        decides = content(row.values) if row.group is None else row.group
        return split_by_content(decides, without=others, shares=task.shares)
    if row[task.split] not in SPLITS:
        raise ValueError(f"{row.where}: column {task.split!r} must say {', '.join(SPLITS)}, got {row[task.split]!r}")
    return row[task.split]
