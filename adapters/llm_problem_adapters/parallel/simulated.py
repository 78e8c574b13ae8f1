"""A cluster whose workers sleep: the pool itself, its messages and its books are the real ones."""

from __future__ import annotations

import heapq
import multiprocessing
import tempfile
import time
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.workers.pool import WorkerPool
from llm_problem.workers.process import Worker

_context = multiprocessing.get_context("spawn")
_TICK = 0.0005  # seconds; a sleep is no more exact


class _NoProcess:
    """What stands for a worker's process."""

    pid, exitcode = 0, None

    def kill(self) -> None:
        """There is none."""

    def join(self, seconds: float | None = None) -> None:
        """There is none."""


class _Sleeper(Worker):
    """A worker's connection to the one process that sleeps for all."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__(b"", 1)

    def _start(self, recipe: bytes, threads: int) -> None:
        self.pipe: Any = Client(self._address, family="AF_UNIX")
        self.process: Any = _NoProcess()
        self.ready = True
        self.facts = {"rss": 0, "private": 0, "peak": 0, "basis": None}


class SimulatedPool(WorkerPool):
    """A pool of so many workers that each sleep `seconds` for a point and answer ‖x − 1‖².

    Args:
        problem: whatever `minimize` is given.
        workers: up to some thousands, as many as there may be open files.
        seconds: of an evaluation.
    """

    def __init__(self, problem: Any, workers: int, seconds: float) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="llm-problem-")
        self._address = str(Path(self._folder.name) / "cluster")
        ours, theirs = _context.Pipe()
        self._cluster = _context.Process(target=serve_sleepers, args=(self._address, seconds, theirs), daemon=True)
        self._cluster.start()
        theirs.close()
        if not ours.poll(60):
            raise RuntimeError("the simulated cluster did not start")
        ours.recv()
        super().__init__(problem, workers)

    def _new(self) -> Worker:
        return _Sleeper(self._address)

    def close(self) -> None:
        """End every worker and the process behind them."""
        super().close()
        self._cluster.kill()
        self._cluster.join()
        self._folder.cleanup()


def serve_sleepers(address: str, seconds: float, started: Connection) -> None:
    """Answer each connection's calls after `seconds` for every point, all of them at once."""
    listener = Listener(address, family="AF_UNIX", backlog=4096)
    socket = listener._listener._socket  # type: ignore[attr-defined]
    started.send(None)
    pipes: list[Any] = []
    due: list[tuple[float, int, Any, Any]] = []
    turn = 0
    while True:
        patience = max(_TICK, due[0][0] - time.monotonic()) if due else None
        arrived: list[Any] = list(wait([socket, *pipes], patience))
        for ready in arrived:
            if ready is socket:
                pipes.append(listener.accept())
                continue
            try:
                number, _, X, _ = ready.recv()
            except (EOFError, OSError):
                pipes.remove(ready)
                continue
            turn += 1
            answer = number, "rows", list(np.square(X - 1.0).sum(axis=1))
            heapq.heappush(due, (time.monotonic() + seconds * len(X), turn, ready, answer))
        while due and due[0][0] <= time.monotonic():
            _, _, pipe, answer = heapq.heappop(due)
            try:
                pipe.send(answer)
            except OSError:
                pipes.remove(pipe)
