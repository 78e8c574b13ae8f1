"""The points of a record that keeps their hashes only: the optimizer is asked again, and each answer compared.

A point of a full vector takes megabytes, an evaluation's row 300 bytes. What the optimizer asked for follows from its
name, options, horizon, seed and the losses it was told, which the record has: that is the point's recipe.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.records import OtherRun, RunRecord
from llm_problem_adapters.blas_threads import one_blas_thread
from llm_problem_adapters.evaluating import Evaluating, Found
from llm_problem_adapters.generalisation import Generalisation
from llm_problem_adapters.identity import differences, identity_of
from llm_problem_adapters.recording import Make, Recording, Unrecorded, found_in
from llm_problem_adapters.registry import configure
from llm_problem_adapters.run import Run


def recorded_points(
    path: str | os.PathLike[str],
    numbers: Iterable[int],
    problem: Any = None,
    optimizer: Callable[..., Any] | None = None,
) -> np.ndarray:
    """Points of a record by the numbers of their rows, whether it keeps them or their recipe; it is not changed.

    Args:
        path: of the record.
        numbers: of rows, from 1.
        problem: the one that was searched; None builds it from the description in the record. Nothing is evaluated.
        optimizer: what makes it from its settings, where the run was not begun by a name.

    Returns:
        The points (k, d), as they were evaluated to the bit: each is compared with its hash.

    Raises:
        ValueError: a row that there is not, or whose point cannot be found; no description of the problem.
        RecordError: see `RunRecord.read`; the problem is another one; the optimizer asks for other points, perhaps in
            another version.
    """
    wanted, found, x = list(numbers), dict[int, np.ndarray](), None
    with RunRecord.read(path) as record:
        missing = set(wanted)
        if absent := {n for n in missing if not 1 <= n <= record.tail.rows}:
            raise ValueError(f"{path} has rows 1 to {record.tail.rows}, and not {sorted(absent)[:5]}")
        for row in itertools.islice(record.rows(), max(missing, default=0)):
            x = x if row.status == "gradient" else row.x
            if row.number in missing and x is not None:
                found[row.number] = x
        if missing - found.keys():
            _ask_again(record, missing - found.keys(), found, problem, optimizer)
    if left := missing - found.keys():
        raise ValueError(f"{path}: the optimizer was not asked again for the points of rows {sorted(left)[:5]}")
    return np.array([found[number] for number in wanted]).reshape(len(wanted), -1)


class _AllFound(Exception):
    """Nothing more is wanted, or recorded."""


class _Rereading(Recording):
    """The books of a run that is asked again as far as its record goes."""

    def __init__(self, record: RunRecord, missing: set[int], found: dict[int, np.ndarray]) -> None:
        Unrecorded.__init__(self)
        self._path, self._record, self._missing, self._seen = record.path, record, missing, found
        self._best, self._stored, self._next = np.inf, record.rows(), None
        self._advance()

    def of(self, X: np.ndarray, make: Make, role: str, cost: int = 1) -> Found:
        rows = self.told(X, role, cost)
        for row, x in zip(rows, X, strict=False):
            for number in self._missing.intersection(range(row.number, row.number + cost)):
                self._seen[number] = x.copy()
        if len(rows) < len(X) or self._missing <= self._seen.keys():
            raise _AllFound
        return found_in(rows)


def _ask_again(
    record: RunRecord,
    missing: set[int],
    found: dict[int, np.ndarray],
    problem: Any,
    optimizer: Callable[..., Any] | None,
) -> None:
    was = record.identity
    if problem is None:
        if was["spec"] is None:
            raise ValueError(f"{record.path} has no description of its problem: give the problem")
        problem = lp.Problem.from_spec(lp.ProblemSpec.from_dict(was["spec"]))
    how, name = was["optimizer"], was["optimizer"]["name"]
    if optimizer is None and not how["by_name"]:
        raise ValueError(f"the run was not begun with an optimizer's name: give what makes its {name}")
    settings: dict[str, Any] = {key: was[key] for key in ("horizon", "batch_size", "seed", "start_at_x0")}
    settings |= {"dimension": problem.dimension, "x0": problem.x0, "bounds": problem.bounds, "sigma": problem.sigma}
    if optimizer is None:
        made, options = configure(name, **how["options"]).setup(**settings), how["options"]
    else:
        made, options = optimizer(**settings), {}
    rest = {key: was[key] for key in ("race", "generalisation", "errors")}
    here = identity_of(problem, name, name, options, settings, **rest)
    if differs := differences(was, {**here, "optimizer": how}):
        raise OtherRun(f"{record.path} is of another problem; recorded and given: {'; '.join(differs)}")
    generalisation = None if was["generalisation"] is None else Generalisation(**was["generalisation"])
    books = _Rereading(record, missing, found)
    budget = max(int(was["budget"]), record.tail.evaluations)
    evaluating = Evaluating(problem)
    run = Run(problem, made, budget, was["seed"], None, False, was["race"], generalisation, evaluating, books)
    try:
        with one_blas_thread():
            run.search()
            run.recommend()
    except _AllFound:
        pass
