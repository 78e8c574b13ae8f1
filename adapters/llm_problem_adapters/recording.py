"""Records of a run as it goes, and resuming by replay.

What was evaluated is on the disk before the optimizer hears of it. To go on, the optimizer is made anew from its name,
options, horizon and seed and asks again; it is told the recorded losses, each after its point was compared with the
recorded one, until there are no more. No state of an optimizer is stored, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llm_problem.records import OtherRun, RecordError, ReplayDeparts, Row, RunRecord
from llm_problem.records.rows import digest
from llm_problem_adapters.evaluating import Found, joined
from llm_problem_adapters.identity import differences, versions_that_differ
from llm_problem_adapters.replaying import replays, require_replay

Make = Callable[[np.ndarray], Found]

# A batch that takes longer is recorded in parts, so that a kill costs no more than this: where the problem promises the
# same values whatever is evaluated together, as those with a fingerprint do.
PART_SECONDS = 20.0

# Numbers of a point (512 kB) from which on a record keeps its hash: what it was, the optimizer says when it is asked
# again (`recovering`). In full are kept the best points on the way and the answer.
LARGE = 2**16


class Unrecorded:
    """The books of a run that keeps none: everything is evaluated."""

    horizon: int | None = None

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.stamp = 0.0  # seconds from the start to the end of the last batch

    def begin(self, identity: dict[str, Any]) -> None:
        """The run begins; nothing is kept."""
        self._started = time.perf_counter()

    def of(self, X: np.ndarray, make: Make, role: str, cost: int = 1) -> Found:
        """What there is for X (k, d): evaluated by `make`, or recorded before."""
        found = make(X)
        self.stamp = self.seconds
        return found

    def reading(self, problem: Any) -> Any:
        """The problem, for whoever reads other splits of it."""
        return problem

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._started

    def ended(self, reason: str, finished: bool) -> None:
        """Write down why the run ended."""

    def close(self) -> None:
        """Let go of the file."""


class Recording(Unrecorded):
    """The record of a run, from `begin` on.

    Args:
        path: of the record.
        resume: go on with what is there; begin where nothing is.
        points: whether points are kept; their hashes are, and the run repeats without them.

    Raises:
        FileExistsError: there is something at `path`, and `resume` is not wanted.
        RecordError: see `RunRecord.open`.
    """

    def __init__(self, path: str | os.PathLike[str], resume: bool, points: bool = True) -> None:
        super().__init__()
        self._points = points
        self._path, self._record = path, RunRecord.open(path) if resume and os.path.lexists(path) else None
        if self._record is None and os.path.lexists(path):
            raise FileExistsError(
                f"{path} exists already and is not overwritten: go on with it by resume=True, or give another path"
            )
        # What was planned when the run began, where it is resumed.
        self.horizon = None if self._record is None else int(self._record.identity["horizon"])
        self._part, self._in_parts = sys.maxsize, False  # points that are evaluated and recorded together
        self._best = np.inf  # loss so far
        self._stored: Iterator[Row] = iter(())
        self._next: Row | None = None
        self._base = 0.0  # seconds, up to the last row that was told again
        self._since: float | None = None  # when this process began to evaluate

    def begin(self, identity: dict[str, Any]) -> None:
        """Create the record, or see that it is of this run.

        Raises:
            OtherRun: it is of another.
            ValueError: an optimizer that does not replay, or a budget that does not fit.
        """
        self._in_parts = "fingerprint" in identity["problem"] and not identity["race"]
        if self._in_parts:
            self._part = 1  # how long one takes is not known yet
        if self._record is None:
            how = identity["optimizer"]
            if identity["dimension"] > LARGE and how["by_name"] and replays(how["name"]):
                self._points = False
            if not self._points:
                identity = {**identity, "points": "best"}  # and of the others the hashes
            self._record = RunRecord.create(self._path, identity)
            self._record.note("started")
            self._since = time.perf_counter()
            return
        record = self._record
        self._points = record.identity.get("points", True) is True
        if different := differences(record.identity, identity):
            raise OtherRun(f"{self._path} is the record of another run; recorded and wanted: {'; '.join(different)}")
        _require_budget(record, identity)
        require_replay(identity["optimizer"]["name"])
        if record.notice:
            _say(f"{self._path}: {record.notice}; what was lost with it is evaluated again")
        finished = record.finished
        longest = max(record.identity["budget"], record.tail.evaluations)  # that it was ever resumed with
        over = finished is not None and identity["budget"] <= longest
        if over:
            _say(f"{self._path}: this run is finished ({finished}); nothing is evaluated")
        elif record.tail.rows:
            _say(f"{self._path}: going on after {record.tail.evaluations} evaluations")
        self._stored = record.rows()
        self._advance()
        if not over:
            record.note("resumed", ", ".join(versions_that_differ(record.identity)) or None)

    def told(self, X: np.ndarray, role: str, cost: int) -> list[Row]:
        """What is recorded of X (k, d), of the first of them at least; the others were not evaluated yet."""
        rows: list[Row] = []
        for x in X:
            while self._next is not None and self._next.role == "answer" != role:
                self._advance()  # of an end that was no end
            if self._next is None:
                break
            rows.append(self._next)
            self._require_same(x, role)
            for _ in range(cost):
                self._advance()
        if rows:
            self.stamp = rows[-1].seconds
        return rows

    def of(self, X: np.ndarray, make: Make, role: str, cost: int = 1) -> Found:
        rows = self.told(X, role, cost)
        if len(rows) == len(X):
            return found_in(rows)
        if self._since is None:
            self._since = time.perf_counter()
        parts, rest = [found_in(rows)] if rows else [], X[len(rows) :]
        while len(rest):
            part, began = rest[: self._part], time.perf_counter()
            parts.append(make(part))
            self._write(part, parts[-1], role, cost)
            if self._in_parts:
                self._part = max(1, int(PART_SECONDS * len(part) / max(1e-9, time.perf_counter() - began)))
            rest = rest[len(part) :]
        return joined(parts)

    @property
    def seconds(self) -> float:
        return self._base + (0.0 if self._since is None else time.perf_counter() - self._since)

    def reading(self, problem: Any) -> Any:
        return _Reading(problem, self)

    def ended(self, reason: str, finished: bool) -> None:
        if self._record is None or (self._record.finished is not None and self._since is None):
            return
        with contextlib.nullcontext() if finished else contextlib.suppress(RecordError):  # what stopped it matters more
            self._record.note("finished" if finished else "stopped", reason)

    def close(self) -> None:
        if self._record is not None:
            self._record.close()

    def _advance(self) -> None:
        if self._next is not None:
            self._base = self._next.seconds
            self._is_best(self._next.role, self._next.status, self._next.loss, self._next.constraints)
        self._next = next(self._stored, None)

    def _is_best(self, role: str, status: str, loss: float, G: np.ndarray | None) -> bool:
        """Whether an evaluation's loss is the lowest so far, which is then known."""
        better = role != "dev" and status == "ok" and loss < self._best and (G is None or bool((G <= 0).all()))
        self._best = loss if better else self._best
        return better

    def _require_same(self, x: np.ndarray, role: str) -> None:
        row = self._next
        if row is not None and row.digest == digest(x) and row.role == role:
            return
        assert row is not None and self._record is not None
        other = versions_that_differ(self._record.identity)
        raise ReplayDeparts(
            f"{self._path}: at row {row.number} the optimizer asks for another point than was recorded, so that this "
            "would be another run. "
            + (
                f"Other versions than when it began: {', '.join(other)}; go on with those it began with"
                if other
                else "Its options, the problem or the machine differ, or the optimizer does not repeat"
            )
        )

    def _write(self, X: np.ndarray, found: Found, role: str, cost: int) -> None:
        assert self._record is not None
        seconds, rows = self.seconds, []
        self.stamp = seconds
        for i, x in enumerate(X):
            G, named = None if found.G is None else found.G[i], digest(x)
            best = self._is_best(role, str(found.status[i]), float(found.losses[i]), G)
            rows.append(
                Row(
                    number=0,
                    batch=0,
                    role=role,
                    status=str(found.status[i]),
                    loss=float(found.losses[i]),
                    seconds=seconds,
                    x=x if self._points or best or role == "answer" else None,
                    digest=named,
                    constraints=G,
                    gradient=None if found.gradients is None else found.gradients[i],
                    note=found.notes[i] if found.notes else None,
                )
            )
            rows += [Row(0, 0, role, "gradient", np.nan, seconds, None, named) for _ in range(cost - 1)]
        self._record.append(rows)


class _Reading:
    """A problem whose other splits are read by way of the record."""

    def __init__(self, problem: Any, recording: Recording) -> None:
        self._problem, self._recording = problem, recording

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._problem, name)
        return self._evaluate_all if name == "evaluate_all" else found

    def _evaluate_all(self, X: np.ndarray, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def make(X: np.ndarray) -> Found:
            F, G, status = self._problem.evaluate_all(X, split=split)
            return Found(np.asarray(F)[:, 0] + 0.0, np.asarray(status), np.asarray(G, dtype=np.float64))

        found = self._recording.of(X, make, split)
        G = np.empty((len(X), 0)) if found.G is None else found.G
        return found.losses[:, None], G, found.status


def found_in(rows: list[Row]) -> Found:
    """What was found, of rows."""
    G = [row.constraints for row in rows if row.constraints is not None]
    gradients = [row.gradient for row in rows if row.gradient is not None]
    return Found(
        np.array([row.loss for row in rows]),
        np.array([row.status for row in rows], dtype="<U10"),
        np.stack(G) if G else None,
        np.stack(gradients) if gradients else None,
        tuple(row.note for row in rows),
    )


def _require_budget(record: RunRecord, identity: dict[str, Any]) -> None:
    budget, before = identity["budget"], record.identity["budget"]
    if budget == before:
        return
    if budget < before:
        raise ValueError(f"the run was begun with a budget of {before}, and is not resumed with one of {budget}")
    if identity["generalisation"] is not None:
        raise ValueError(f"looks at the dev split follow from the budget: resume with that of {before}, not {budget}")
    if budget > identity["horizon"]:
        name = identity["optimizer"]["name"]
        from llm_problem_adapters.replaying import plans_ahead

        if plans_ahead(name):
            raise ValueError(
                f"{name} planned for {identity['horizon']} evaluations, and what it did follows from that: it cannot "
                f"go on up to {budget}. Give a horizon when a run begins that may become longer"
            )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
