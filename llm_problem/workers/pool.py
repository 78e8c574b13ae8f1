"""A pool of processes that evaluate one problem.

Libraries were weighed for this. pebble 5.2 gives its whole pool up where a worker is killed between two tasks (tried),
and all its workers share one pipe and its locks; loky's executor is broken once a worker was killed. Here every worker
has a pipe of its own, so that a death costs what that worker had in hand.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from multiprocessing.connection import wait
from typing import Any

from llm_problem.workers.base import Pool
from llm_problem.workers.errors import Killed, NotBuilt
from llm_problem.workers.memory import free_memory, require_room
from llm_problem.workers.options import count
from llm_problem.workers.process import Worker
from llm_problem.workers.recipe import recipe_of

_LOOK = 0.05  # seconds between looks at the memory


class WorkerPool(Pool):
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
        RuntimeError: this process is such a worker itself.
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
        super().__init__(problem, workers, threads, chunk, evaluation_seconds)
        if multiprocessing.current_process().daemon:
            raise RuntimeError("a worker cannot have workers of its own: leave workers out in what it runs")
        self._memory = None if memory is None else count("memory", memory)
        self._basis: str | None = None  # a file for those whose own differs
        try:
            self._start_first()
            self._fill()
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        """The processes that there are now."""
        return [worker.process.pid or 0 for worker in self._workers]

    def close(self) -> None:
        """End every worker. Closing again does nothing."""
        super().close()
        if self._basis is not None and os.getpid() == self._owner:
            shutil.rmtree(os.path.dirname(self._basis), ignore_errors=True)
            self._basis = None

    # Inside.

    def _size(self, n: int) -> int:
        return 1 if self._memory is not None else super()._size(n)

    def _start_first(self) -> None:
        self._workers.append(self._new())
        while not (self._workers and self._workers[0].ready):
            if not self._workers:  # it was killed
                self._workers.append(self._new())
            for worker in self._heard(1.0):
                self._hear(worker)
            self._give_up_late()
        if self._count > 1:
            require_room(self._count, self._workers[0].facts, free_memory())

    def _new(self) -> Worker:
        return Worker(self._recipe, self._threads)

    def _require_room(self, workers: int) -> None:
        if self.facts:
            require_room(1 + workers - self._count, self.facts[0], free_memory())

    def _wait_for(self, seconds: float | None) -> float | None:
        found = super()._wait_for(seconds)
        if self._memory is not None and any(worker.chunk for worker in self._workers):
            return _LOOK if found is None else min(found, _LOOK)
        return found

    def _heard(self, seconds: float | None) -> list[Worker]:
        ready = set(wait([worker.pipe for worker in self._workers], seconds))
        return [worker for worker in self._workers if worker.pipe in ready]

    def _hear(self, worker: Worker) -> None:
        try:
            number, kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            guard = ' (a script is imported there: make workers under if __name__ == "__main__")'
            why = worker.death()
            self._died(worker, why, worker.was_killed, "" if worker.was_killed else guard)
            return
        if kind == "ready":
            self._built(worker, value)
        elif not worker.ready:
            lost = isinstance(value, AttributeError) and "__main__" in str(value)
            hint = "" if not lost else " (what a notebook or a command line defines is not there: put it into a module)"
            self._not_built(worker, f"in a process of its own{hint}", value)
        elif number == worker.number:
            self._answered(worker, kind, value)

    def _built(self, worker: Worker, facts: dict[str, Any]) -> None:
        worker.ready, worker.facts = True, facts
        self._patience.built()
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

    def _too_much(self, worker: Worker, now: float) -> Exception | None:
        why = super()._too_much(worker, now)
        used = worker.memory() if why is None and self._memory is not None else 0
        if self._memory is not None and used > self._memory:
            return Killed(f"its process took {used:,} bytes, more than {self._memory:,}")
        return why
