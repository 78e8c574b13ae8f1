"""Workers killed every two seconds of a run, and workers that come and go meanwhile: the run is the serial one.

Whoever is killed is drawn from all processes that there are; that some are killed while they build is seen to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.records import RunRecord
from llm_problem.registry import make
from llm_problem.workers import WorkerPool
from llm_problem_adapters.faults.figures import Figure
from llm_problem_adapters.faults.left_over import processes
from llm_problem_adapters.minimize import minimize

NAME = "tiny-gpt2-prose-lora-xs-d32-v1"
OPTIMIZER, POPULATION, SEED = "genetic-algorithm", 50, 3
WORKERS = 2
SIZES = (1, 2, 3, 4)  # of the pool that is resized


class Slowed:
    """A named problem whose evaluations take their time and are counted in a file, whichever process makes them.

    Args:
        name: of a problem.
        seconds: that each evaluation waits.
        log: a file that grows by a byte for each evaluation.
    """

    def __init__(self, name: str, seconds: float, log: Path) -> None:
        self._problem, self._seconds, self._log = make(name), seconds, log
        self.dimension, self.sigma = self._problem.dimension, self._problem.sigma
        self.x0, self.bounds = self._problem.x0, self._problem.bounds

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        losses = []
        for x in X:
            time.sleep(self._seconds)
            losses.append(self._problem(x))
            with open(self._log, "ab") as log:
                log.write(b".")
        return np.array(losses)


class Disturber(threading.Thread):
    """Kills a worker of a pool every so many seconds, and the one that replaces it, while it builds, each third time.

    Args:
        pool: whose workers are killed.
        every: seconds.
        resize: whether the pool is given another size each second time.
    """

    def __init__(self, pool: WorkerPool, every: float, resize: bool) -> None:
        super().__init__(daemon=True)
        self._pool, self._every, self._resize = pool, every, resize
        self._rng, self._over = np.random.default_rng(0), threading.Event()
        self.kills = self.building = self.resized = 0

    def __enter__(self) -> Disturber:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Disturb until it is over."""
        turn = 0
        while not self._over.wait(self._every):
            turn += 1
            before = self._pool.pids
            if before:
                self._kill(before[self._rng.integers(len(before))])
            if turn % 3 == 0:
                self._kill_a_newcomer(before)
            if self._resize and turn % 2 == 0:
                self._pool.resize(int(self._rng.choice(SIZES)))
                self.resized += 1

    def _kill_a_newcomer(self, before: list[int]) -> None:
        end = time.monotonic() + self._every / 2
        while time.monotonic() < end:
            for pid in set(self._pool.pids).difference(before, [0]):
                self._kill(pid)
                return
            time.sleep(0.005)

    def _kill(self, pid: int) -> None:
        ready = {facts["pid"] for facts in self._pool.facts}
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills, self.building = self.kills + 1, self.building + (pid not in ready)


def killed_workers(folder: Path, budget: int, every: float, seconds: float, resize: bool = False) -> list[Figure]:
    """One run of so many evaluations over workers of which one is killed every so often.

    Args:
        folder: for the record.
        budget: evaluations.
        every: seconds between two kills.
        seconds: that an evaluation waits, so that the run lasts.
        resize: whether the pool is given another size at every second kill.
    """
    log = folder / "evaluations"
    problem, quick = Slowed(NAME, seconds, log), Slowed(NAME, 0.0, folder / "serial")
    settings: dict[str, Any] = {"seed": SEED, "population": POPULATION}
    serial = minimize(quick, OPTIMIZER, budget, **settings)
    before = processes()
    began = time.perf_counter()
    with WorkerPool(problem, WORKERS) as pool, Disturber(pool, every, resize) as done:
        result = minimize(problem, OPTIMIZER, budget, record=folder / "run", workers=pool, **settings)
        took = time.perf_counter() - began
    left = processes() - before
    with RunRecord.read(folder / "run") as record:
        rows = [row for row in record.rows() if row.role != "dev"]
    same = result.losses.tobytes() == serial.losses.tobytes() and result.x.tobytes() == serial.x.tobytes()
    same = same and [row.loss for row in rows] == serial.losses.tolist()
    whole = len(rows) == budget == len({row.number for row in rows})
    found = (
        f"{len(rows)} evaluations recorded, {log.stat().st_size} made; {pool.replaced} workers replaced; losses "
        f"{'those of the serial run' if same else 'NOT those of the serial run'}; {len(left)} processes left over"
    )
    tried = f"{done.kills} kills in {took:.0f} s, {done.building} of workers that were building"
    named = "workers killed all through a run"
    if resize:
        tried, named = f"{tried}; {done.resized} new sizes", f"{named}, and the pool resized meanwhile"
    return [Figure(named, tried, found, same and whole and not left and done.kills > 0)]
