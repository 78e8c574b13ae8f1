"""What every pool of workers does, whatever its workers are: hand out, listen, replace, give up.

Results are in the order of the points, and bitwise those of one process with as many threads: a value depends on no
other point, and every worker builds the problem from one description. A worker that dies or hangs is replaced.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np

from llm_problem.workers.calls import Call
from llm_problem.workers.errors import Abandoned, NotBuilt, TimedOut
from llm_problem.workers.member import Member
from llm_problem.workers.options import count, seconds
from llm_problem.workers.patience import Patience
from llm_problem.workers.queueing import Queue
from llm_problem.workers.recipe import recipe_of

START_SECONDS = 1800.0  # in which a problem is built
MANY = 10  # workers replaced, at which it is said
CHUNKS = 4  # a worker gets of a population, so that none waits long for another

Self = TypeVar("Self", bound="Pool")


class Pool:
    """Workers that each hold one problem; a kind of them makes them, hears them and says for how many there is room.

    Args:
        problem: any that can be pickled; a `Problem` travels as its description.
        workers: at least 1.
        threads: of each one's libraries.
        chunk: points that a worker is given at once; None follows from the number of points and of workers.
        evaluation_seconds: after which an evaluation is given up; points go out singly.

    Raises:
        ValueError: no counts or limits, or a problem that cannot be pickled.
    """

    def __init__(
        self, problem: Any, workers: int, threads: int, chunk: int | None, evaluation_seconds: float | None
    ) -> None:
        self._count, self._threads = count("workers", workers), count("threads", threads)
        self._chunk = None if chunk is None else count("chunk", chunk)
        self._seconds = None if evaluation_seconds is None else seconds("evaluation_seconds", evaluation_seconds)
        self.problem = problem
        self._recipe = recipe_of(problem)
        self._workers: list[Any] = []
        self._waiting = Queue()
        self._patience, self._closed, self._owner = Patience(), False, os.getpid()
        self.replaced = 0  # workers that died or were killed
        self._lock, self._asking = threading.RLock(), deque[None]()  # the second: for those who want the first

    @property
    def workers(self) -> int:
        """How many there are to be."""
        return self._count

    @property
    def closed(self) -> bool:
        """Whether it was closed: it takes nothing more."""
        return self._closed

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What each built worker said of its memory: bytes `rss`, `private` and `peak`."""
        return [worker.facts for worker in self._workers if worker.ready]

    def resize(self, workers: int) -> None:
        """Have another number of workers; those that are too many finish what they have in hand.

        Any thread may call it while another waits for outcomes; it returns when a worker has answered there.

        Raises:
            NotBuilt: there is no room for them.
            RuntimeError: the pool is closed.
        """
        workers = count("workers", workers)
        self._asking.append(None)
        try:
            with self._lock:
                self._require_open()
                if workers > self._count:
                    self._require_room(workers)
                self._count = workers
                staying = [worker for worker in self._workers if not worker.leaving]
                for worker in sorted(staying, key=lambda w: w.ready, reverse=True)[workers:]:
                    worker.leaving = True
                    if worker.chunk is None:
                        self._dismiss(worker)
                self._fill()
        finally:
            self._asking.pop()

    def wait_built(self) -> None:
        """Return when every worker has built its problem."""
        with self._lock:
            self._require_open()
            while sum(worker.ready and not worker.leaving for worker in self._workers) < self._count:
                self.pump(1.0)

    def outcomes(self, method: str, X: np.ndarray, **options: Any) -> list[Any]:
        """Call `problem.method(X, **options)` by chunks.

        Returns:
            For each row of X (n, d) its part of the answer, or the exception that it ended with: what the problem
            raised, `TimedOut`, or `Killed` after it cost two workers; `Abandoned` where another thread's call was
            interrupted, or closed the pool.

        Raises:
            NotBuilt: workers that died cannot be replaced.
            RuntimeError: the pool is closed.
        """
        call = self.submit(method, X, **options)
        try:
            while not call.done:
                self.pump()
        except BaseException as error:  # between two turns, too, nobody waits for the rest any more
            with self._lock:
                self._abandon(error)
            raise
        return call.outcomes

    def submit(self, method: str, X: np.ndarray, **options: Any) -> Call:
        """Queue a call for X (n, d) as it is now; `pump` makes it go on."""
        call = Call(method, np.array(X), options)
        with self._lock:
            self._require_open()
            try:
                self._waiting.add(call, self._size(len(X)))
                self._hand_out()
            except BaseException as error:
                self._abandon(error)
                raise
        return call

    def pump(self, seconds: float | None = None) -> None:
        """Hand out what waits and take what came; return after something came, or after so many seconds."""
        if self._asking:  # a lock goes to who is quickest, which is the one that has just let go of it
            time.sleep(0.001)
        with self._lock:
            self._require_open()
            try:
                self._fill()
                self._hand_out()
                for worker in self._heard(self._wait_for(seconds)):
                    self._hear(worker)
                self._give_up_late()
                self._hand_out()
            except BaseException as error:
                self._abandon(error)
                raise

    def cancel(self, call: Call) -> None:
        """End a call of `submit`, `Abandoned` where it has no outcome; workers finish what they have in hand."""
        with self._lock:
            self._waiting.cancel(call, Abandoned("this was cancelled before it was evaluated"))

    def close(self) -> None:
        """End every worker; what waits is `Abandoned`. Closing again does nothing."""
        self._closed = True
        if os.getpid() != self._owner:  # a fork of the process whose workers these are
            return
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        self._waiting.abandon(Abandoned("the pool of workers was closed before this was evaluated"))

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may not have come to have workers
            self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._count} for {self.problem!r}>"

    # What a kind of workers says.

    def _new(self) -> Member:
        """Start one more."""
        raise NotImplementedError

    def _require_room(self, workers: int) -> None:
        """Raise `NotBuilt` where there is no room for so many."""
        raise NotImplementedError

    def _heard(self, seconds: float | None) -> Iterable[Any]:
        """Workers that have said something, within so many seconds."""
        raise NotImplementedError

    def _hear(self, worker: Any) -> None:
        """Take what it said."""
        raise NotImplementedError

    # What all have in common.

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this pool of workers is closed")
        if os.getpid() != self._owner:
            raise RuntimeError("this pool of workers belongs to the process that this one was forked from")

    def _size(self, n: int) -> int:
        """Points a chunk: values do not depend on it."""
        if self._seconds is not None:
            return 1
        return self._chunk or max(1, math.ceil(n / (CHUNKS * self._count)))

    def _fill(self) -> None:
        if self._patience.rest():
            return
        staying = sum(not worker.leaving for worker in self._workers)
        for _ in range(self._count - staying):
            self._workers.append(self._new())

    def _hand_out(self) -> None:
        for worker in self._workers:
            if not self._waiting:
                return
            if worker.idle:
                worker.give(self._waiting.take(), self._seconds)

    def _wait_for(self, seconds: float | None) -> float | None:
        """How long to wait for word."""
        now, ends = time.monotonic(), [] if seconds is None else [seconds]
        ends += [max(0.0, worker.end - now) for worker in self._workers if worker.end is not None]
        if rest := self._patience.rest():
            ends.append(rest)
        ends += [max(0.0, worker.began + START_SECONDS - now) for worker in self._workers if not worker.ready]
        return min(ends, default=None)

    def _answered(self, worker: Member, kind: str, value: Any) -> None:
        """A worker said "rows" or "error" of what it has in hand."""
        self._patience.alive()
        chunk, worker.chunk, worker.end = worker.chunk, None, None
        if worker.leaving:
            self._dismiss(worker)
        if chunk is not None:
            self._waiting.answered(chunk, kind, value)

    def _died(self, worker: Member, why: str, killed: bool = True, hint: str = "") -> None:
        """It is gone; `killed` from outside, or it ended by itself."""
        chunk = worker.chunk
        self._lose(worker, why)
        if not worker.ready:
            self._require_patience(killed, f"in a process of its own: {why}{hint}")
        self._waiting.killed(chunk, why, killed)

    def _not_built(self, worker: Member, where: str, error: Exception) -> None:
        """It has ended with this while it built."""
        why = f"{where}: {type(error).__name__}: {error}"
        self._lose(worker, f"the problem was not built {why}")
        self._require_patience(False, why, error)

    def _require_patience(self, killed: bool, why: str, cause: Exception | None = None) -> None:
        if self._patience.over(killed, any(other.ready for other in self._workers)):
            raise NotBuilt(f"the problem was not built {why}") from cause

    def _give_up_late(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.ready and now > worker.began + START_SECONDS:
                raise NotBuilt(f"the problem was not built, or found no place, in {START_SECONDS:g} seconds")
            why = None if worker.chunk is None else self._too_much(worker, now)
            if why is not None and not worker.spoke():
                chunk = worker.chunk
                self._lose(worker, str(why))
                self._waiting.failed(chunk, why)

    def _too_much(self, worker: Any, now: float) -> Exception | None:
        """The limit that it has passed with what it has in hand."""
        if worker.end is not None and now >= worker.end:
            return TimedOut(f"longer than {self._seconds:g} seconds")
        return None

    def _lose(self, worker: Member, why: str) -> None:
        self.replaced += 1
        self._dismiss(worker)
        if self.replaced == MANY:
            warnings.warn(
                f"{MANY} workers of {self!r} were lost, and others started, the last because: {why}. This goes on "
                "without another word; the pool's `replaced` counts them",
                RuntimeWarning,
                stacklevel=2,
            )

    def _dismiss(self, worker: Member) -> None:
        self._workers.remove(worker)  # first: one that was killed, and stayed here, would be listened to
        worker.kill()

    def _abandon(self, error: BaseException) -> None:
        """After an interruption a message may be half sent or half read: with it goes whose it is. Nobody waits for
        what was asked for but whoever holds a call of `submit`, who is told."""
        why = Abandoned(f"this was given up before it was evaluated: {type(error).__name__} {error}".rstrip())
        why.__cause__ = error
        self._waiting.abandon(why)
        for worker in [worker for worker in self._workers if worker.chunk is not None or not worker.ready]:
            self._dismiss(worker)
