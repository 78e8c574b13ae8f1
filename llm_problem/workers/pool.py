"""A pool of processes that evaluate one problem.

Results are in the order of the points, and bitwise those of one process with as many threads: a value depends on no
other point, and every worker builds the problem from one description. A worker that dies or hangs is replaced.

Libraries were weighed for this. pebble 5.2 gives its whole pool up where a worker is killed between two tasks (tried),
and all its workers share one pipe and its locks; loky's executor is broken once a worker was killed. Here every worker
has a pipe of its own, so that a death costs what that worker had in hand.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from llm_problem.workers.calls import Call
from llm_problem.workers.errors import Killed, NotBuilt, TimedOut
from llm_problem.workers.memory import free_memory, require_room
from llm_problem.workers.options import count, seconds
from llm_problem.workers.patience import Patience
from llm_problem.workers.process import Worker
from llm_problem.workers.queueing import Queue
from llm_problem.workers.recipe import recipe_of

START_SECONDS = 1800.0  # in which a problem is built
CHUNKS = 4  # a worker gets of a population, so that none waits long for another
_LOOK = 0.05  # seconds between looks at the memory


class WorkerPool:
    """Processes on this machine that each hold the problem.

    The first is started and asked for its memory before there are others. Each imports the script that uses this, which
    does so under `if __name__ == "__main__"`. Weights in safetensors are mapped, and their pages shared; packed
    copies and kept activations are each worker's own.

    Args:
        problem: any that can be pickled; a `Problem` travels as its description.
        workers: processes, at least 1.
        threads: of each. Losses are those of a single process with this many threads.
        chunk: points that a worker is given at once; None follows from the number of points and of workers.
        evaluation_seconds: after which an evaluation is given up, its worker killed and replaced; points go out singly.
        memory: bytes resident of a worker, past which its evaluation is given up; points go out singly.

    Raises:
        ValueError: no counts or limits, or a problem that cannot be pickled.
        NotBuilt: a worker cannot build it.
        TooManyWorkers: they do not fit into memory.
    """

    def __init__(
        self,
        problem: Any,
        workers: int,
        *,
        threads: int = 1,
        chunk: int | None = None,
        evaluation_seconds: float | None = None,
        memory: int | None = None,
    ) -> None:
        self._count, self._threads = count("workers", workers), count("threads", threads)
        self._chunk = None if chunk is None else count("chunk", chunk)
        self._seconds = None if evaluation_seconds is None else seconds("evaluation_seconds", evaluation_seconds)
        self._memory = None if memory is None else count("memory", memory)
        self.problem = problem
        self._recipe = recipe_of(problem)
        self._basis: str | None = None  # a file for those whose own differs
        self._workers: list[Worker] = []
        self._waiting = Queue()
        self._patience, self._closed = Patience(), False
        self.replaced = 0  # workers that died or were killed
        self._lock, self._asking = threading.RLock(), deque[None]()  # the second: for those who want the first
        try:
            self._start_first()
            self._fill()
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """How many there are to be."""
        return self._count

    @property
    def pids(self) -> list[int]:
        """The processes that there are now."""
        return [worker.process.pid or 0 for worker in self._workers]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What each built worker said of its memory: bytes `rss`, `private` and `peak`."""
        return [worker.facts for worker in self._workers if worker.ready]

    def resize(self, workers: int) -> None:
        """Have another number of workers; those that are too many finish what they have in hand.

        Any thread may call it while another waits for outcomes; it returns when a worker has answered there.

        Raises:
            TooManyWorkers: they do not fit into memory.
            RuntimeError: the pool is closed.
        """
        workers = count("workers", workers)
        self._asking.append(None)
        with self._lock:
            self._asking.pop()
            self._require_open()
            more = workers - self._count
            if more > 0 and self.facts:
                require_room(1 + more, self.facts[0], free_memory())
            self._count = workers
            staying = [worker for worker in self._workers if not worker.leaving]
            for worker in sorted(staying, key=lambda w: w.ready, reverse=True)[workers:]:
                worker.leaving = True
                if worker.chunk is None:
                    self._dismiss(worker)
            self._fill()

    def wait_built(self) -> None:
        """Return when every worker has built its problem."""
        with self._lock:
            self._require_open()
            while not all(worker.ready for worker in self._workers):
                self.pump(1.0)

    def outcomes(self, method: str, X: np.ndarray, **options: Any) -> list[Any]:
        """Call `problem.method(X, **options)` by chunks.

        Returns:
            For each row of X (n, d) its part of the answer, or the exception that it ended with: what the problem
            raised, `TimedOut`, or `Killed` after it cost two workers.

        Raises:
            NotBuilt: workers that died cannot be replaced.
            RuntimeError: the pool is closed.
        """
        call = self.submit(method, X, **options)
        while not call.done:
            self.pump()
        return call.outcomes

    def submit(self, method: str, X: np.ndarray, **options: Any) -> Call:
        """Queue a call; `pump` makes it go on."""
        with self._lock:
            self._require_open()
            call = Call(method, X, options)
            self._waiting.add(call, self._size(len(X)))
            self._hand_out()
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
                ready = wait([worker.pipe for worker in self._workers], self._wait_for(seconds))
                for worker in [worker for worker in self._workers if worker.pipe in ready]:
                    self._hear(worker)
                self._give_up_late()
                self._hand_out()
            except BaseException:  # an interruption: an answer that was half read is lost, and so is who sent it
                self._abandon()
                raise

    def close(self) -> None:
        """End every worker. Closing again does nothing."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        self._workers.clear()
        self._waiting.clear()
        if self._basis is not None:
            shutil.rmtree(os.path.dirname(self._basis), ignore_errors=True)
            self._basis = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # it may not have come to have workers
            self.close()

    def __repr__(self) -> str:
        return f"<WorkerPool of {self._count} for {self.problem!r}>"

    # Inside.

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("this pool of workers is closed")

    def _size(self, n: int) -> int:
        """Points a chunk: values do not depend on it."""
        if self._seconds is not None or self._memory is not None:
            return 1
        return self._chunk or max(1, math.ceil(n / (CHUNKS * self._count)))

    def _start_first(self) -> None:
        self._workers.append(self._new())
        while not (self._workers and self._workers[0].ready):
            if not self._workers:  # it was killed
                self._workers.append(self._new())
            if wait([self._workers[0].pipe], 1.0):
                self._hear(self._workers[0])
            self._give_up_late()
        if self._count > 1:
            require_room(self._count, self._workers[0].facts, free_memory())

    def _new(self) -> Worker:
        return Worker(self._recipe, self._threads)

    def _fill(self) -> None:
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
        if self._memory is not None and any(worker.chunk for worker in self._workers):
            ends.append(_LOOK)
        ends += [max(0.0, worker.end - now) for worker in self._workers if worker.end is not None]
        ends += [max(0.0, worker.began + START_SECONDS - now) for worker in self._workers if not worker.ready]
        return min(ends, default=None)

    def _hear(self, worker: Worker) -> None:
        try:
            number, kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            self._died(worker)
            return
        if kind == "ready":
            self._built(worker, value)
            return
        if not worker.ready:
            raise NotBuilt(
                f"the problem was not built in a process of its own: {type(value).__name__}: {value}"
            ) from value
        self._patience.alive()
        chunk = worker.chunk
        if chunk is None or number != worker.number:
            return
        worker.chunk = worker.end = None
        if worker.leaving:
            self._dismiss(worker)
        self._waiting.answered(chunk, kind, value)

    def _built(self, worker: Worker, facts: dict[str, Any]) -> None:
        worker.ready, worker.facts = True, facts
        self._patience.alive()
        if self._memory is not None and facts["rss"] > self._memory:
            raise NotBuilt(
                "the memory limit is too small for the problem itself: "
                f"its process took {facts['rss']:,} bytes, more than {self._memory:,}"
            )
        subspace = getattr(self.problem, "subspace", None)
        if facts["basis"] is None or subspace is None or facts["basis"] == subspace.basis_hash():
            return
        if self._basis is not None:
            raise NotBuilt("a worker has another basis of the subspace than the one in the file it was given")
        folder = tempfile.mkdtemp(prefix="llm-problem-")  # a decomposition may come out otherwise with other threads
        path = os.path.join(folder, "basis.safetensors")
        self.problem.save_basis(path)
        self._basis, self._recipe = path, recipe_of(self.problem, path)
        self._dismiss(worker)

    def _died(self, worker: Worker) -> None:
        why, chunk = worker.death(), worker.chunk
        self._remove(worker)
        if not worker.ready and self._patience.over(worker.was_killed, any(other.ready for other in self._workers)):
            guard = 'a script is imported there: make workers under if __name__ == "__main__"'
            hint = "" if worker.was_killed else f" ({guard})"
            raise NotBuilt(f"the problem was not built in a process of its own: {why}{hint}")
        self._waiting.killed(chunk, why)

    def _give_up_late(self) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if not worker.ready and now > worker.began + START_SECONDS:
                raise NotBuilt(f"the problem was not built in {START_SECONDS:g} seconds")
            if worker.chunk is None or worker.pipe.closed or worker.pipe.poll():
                continue
            used = worker.memory() if self._memory is not None else 0
            if worker.end is not None and now >= worker.end:
                why: Exception = TimedOut(f"longer than {self._seconds:g} seconds")
            elif self._memory is not None and used > self._memory:
                why = Killed(f"its process took {used:,} bytes, more than {self._memory:,}")
            else:
                continue
            chunk = worker.chunk
            self._remove(worker)
            self._waiting.failed(chunk, why)

    def _remove(self, worker: Worker) -> None:
        self.replaced += 1
        self._dismiss(worker)

    def _dismiss(self, worker: Worker) -> None:
        worker.kill()
        self._workers.remove(worker)

    def _abandon(self) -> None:
        self._waiting.clear()
        for worker in [worker for worker in self._workers if worker.chunk is not None or not worker.ready]:
            self._dismiss(worker)
