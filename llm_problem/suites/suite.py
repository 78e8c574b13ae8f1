"""A suite: named problems to compare algorithms on, dimension by dimension, instance by instance."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from llm_problem.problem import Problem
from llm_problem.registry import get_spec
from llm_problem.suites import cards

if TYPE_CHECKING:
    from llm_problem.spec import ProblemSpec


@dataclass(frozen=True)
class Entry:
    """One problem of a suite, not loaded yet.

    Attributes:
        spec: its description.
        task: the word for its task that the id has, such as "sentiment".
        dimension: d.
    """

    spec: ProblemSpec
    task: str
    dimension: int

    @property
    def name(self) -> str:
        """The id, with the instance behind an @ where that is not 0."""
        return f"{self.spec.id}@{self.spec.instance}" if self.spec.instance else str(self.spec.id)

    def make(self, *, device: str = "cpu") -> Problem:
        """Load it."""
        return Problem.from_spec(self.spec, device=device)

    @property
    def card(self) -> dict[str, Any] | None:
        """Its measured figures (`llm_problem.suites.cards`); None where none are published."""
        return cards.card_of(self.name)


@dataclass(frozen=True)
class Suite:
    """Problems in the order of model, task and subspace, then dimension, then instance.

    Iterating makes one problem after another; `entries` says which without loading any.

        for problem in lp.suites.get("tiny"):
            result = minimize(problem, "cma", 1000)
    """

    name: str
    entries: tuple[Entry, ...]

    def __iter__(self) -> Iterator[Problem]:
        for entry in self.entries:
            yield entry.make()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def names(self) -> list[str]:
        """Of the problems, instances as "…@k"."""
        return [entry.name for entry in self.entries]

    @property
    def dimensions(self) -> list[int]:
        """The different ones, from the smallest."""
        return sorted({entry.dimension for entry in self.entries})

    def select(
        self,
        pattern: str = "*",
        *,
        tasks: str | Sequence[str] | None = None,
        subspaces: str | Sequence[str] | None = None,
        dimensions: int | tuple[int, int] | None = None,
        instances: int | Sequence[int] | None = None,
    ) -> Suite:
        """The part of it that fits.

        Args:
            pattern: of ids, with * and ?.
            tasks: a word for tasks, such as "sentiment", or several.
            subspaces: a kind of subspaces, such as "lora-xs", or several.
            dimensions: the smallest and the largest that are wanted, or the one.
            instances: a number, or several; None keeps all.

        Raises:
            ValueError: a word that this suite does not have, or nothing left.
        """
        tasks, subspaces = _several(tasks), _several(subspaces)
        instances = None if instances is None else [instances] if isinstance(instances, int) else instances
        _require("task", tasks, {entry.task for entry in self.entries})
        _require("subspace", subspaces, {entry.spec.subspace.kind for entry in self.entries})
        low, high = (1, max(self.dimensions)) if dimensions is None else _range(dimensions)
        found = tuple(
            entry
            for entry in self.entries
            if fnmatchcase(str(entry.spec.id), pattern)
            and (tasks is None or entry.task in tasks)
            and (subspaces is None or entry.spec.subspace.kind in subspaces)
            and low <= entry.dimension <= high
            and (instances is None or entry.spec.instance in instances)
        )
        if not found:
            raise ValueError(f"nothing in the suite {self.name!r} fits; it has {', '.join(self.names)}")
        return replace(self, entries=found)

    def __repr__(self) -> str:
        return f"<Suite {self.name}: {len(self)} problems>"


def dimension_in(id: str) -> int:
    """The dimension that an id names."""
    found = re.search(r"-d([0-9]+)-v[0-9]+$", id)
    if found is None:
        raise ValueError(f"an id ends in -d<dimension>-v<version>, got {id!r}")
    return int(found[1])


def named_suite(name: str, ids: Sequence[str], instances: int) -> Suite:
    """A suite of registered problems, each in so many instances."""
    ordered = sorted(ids, key=lambda id: (re.sub(r"-d[0-9]+-v[0-9]+$", "", id), dimension_in(id)))
    return Suite(name, tuple(entry_of(id, k) for id in ordered for k in range(instances)))


def entry_of(id: str, instance: int = 0) -> Entry:
    """A registered problem as an entry; "…@3" is the same as instance=3."""
    spec = get_spec(id, instance)
    name = str(spec.id)
    task = name.rpartition("/")[2].removeprefix(f"{spec.model}-").partition("-")[0]
    return Entry(spec, task, dimension_in(name))


def unknown(what: str, word: str, known: Sequence[str]) -> ValueError:
    """The error for a word that there is not, with the nearest ones."""
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return ValueError(f"unknown {what} {word!r}: {hint}")


def _several(words: str | Sequence[str] | None) -> Sequence[str] | None:
    return [words] if isinstance(words, str) else words


def _range(dimensions: Any) -> tuple[int, int]:
    found = (dimensions, dimensions) if isinstance(dimensions, int) else tuple(dimensions)
    if len(found) != 2 or not all(isinstance(end, int) for end in found):
        raise ValueError(f"dimensions are one, or the smallest and the largest, got {dimensions!r}")
    return found


def _require(what: str, words: Sequence[str] | None, known: set[str]) -> None:
    for word in words or ():
        if word not in known:
            raise unknown(what, word, sorted(known))
