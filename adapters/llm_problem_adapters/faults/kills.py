"""kill −9 at random moments, a part of them inside the commit: nothing acknowledged lost, nothing doubled.

The process is gone; what the kernel has in its buffers is not, so that this says nothing of a power failure.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm_problem.records import Row, RunRecord
from llm_problem_adapters.faults.figures import Figure
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.minimize import minimize

OPTIMIZERS = ("genetic-algorithm", "cma", "pymoo:PSO", "nevergrad:DE", "simulated-annealing", "optuna:RandomSampler")
BUDGET = 600
OF_ONE = 30  # kills of one run, which is then left to end
BEFORE, AFTER, DONE = b"b", b"a", b"d"


def kills(folder: Path, total: int, inside: int, seed: int = 0) -> list[Figure]:
    """Kill runs until there are `total` kills, `inside` of them within the commit; each run is resumed to its end."""
    rng = np.random.default_rng(seed)
    for name in OPTIMIZERS:
        minimize(Free(), name, 2)  # what is imported now, the forked ones need not import
    killed = in_commit = runs = lost = doubled = departed = 0
    while killed < total or in_commit < inside:
        name = OPTIMIZERS[runs % len(OPTIMIZERS)]
        path = folder / f"killed-{runs}.sqlite"
        acknowledged, finished, before = 0, False, killed
        while not finished:
            how = "leave" if killed - before >= OF_ONE else ("aim", "blind")[int(rng.integers(2))]
            finished, was_inside, told = _victim(name, path, runs, how, rng)
            killed, in_commit = killed + (not finished), in_commit + was_inside
            acknowledged = max(acknowledged, told)
            if path.exists():
                with RunRecord.read(path) as record:
                    lost += record.tail.evaluations < acknowledged
        with RunRecord.read(path) as record:
            rows = [row for row in record.rows() if row.role != "dev"]
        doubled += len(rows) != BUDGET
        whole = minimize(Free(seconds=0), name, BUDGET, seed=runs, keep_x=True)
        same = [row.loss for row in rows] == whole.losses.tolist() and whole.X is not None
        departed += not (same and all(np.array_equal(row.x, x) for row, x in zip(rows, whole.X, strict=True)))  # type: ignore[arg-type]
        runs += 1
    found = (
        f"{lost} lost something acknowledged, {doubled} runs have a row too many or too few, {departed} differ from "
        "the undisturbed run"
    )
    tried = f"{killed} kills of {runs} runs, {in_commit} inside the commit"
    named = f"kill -9 at random moments, {len(OPTIMIZERS)} optimizers in turn"
    return [Figure(named, tried, found, not (lost or doubled or departed))]


def _victim(name: str, path: Path, seed: int, how: str, rng: np.random.Generator) -> tuple[bool, bool, int]:
    """Run in a forked process and kill it: whether it had finished, was inside the commit, and had told how many."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _run(name, path, seed, write)  # never comes back
    os.close(write)
    said = b""
    if how == "aim":
        wanted = int(rng.integers(1, 8))
        while said.count(BEFORE) < wanted and (more := os.read(read, 1)):
            said += more
        _spin(float(rng.uniform(0, 0.003)))
    elif how == "blind":
        select.select([], [], [], float(rng.uniform(0, 0.5)))
    else:
        while more := os.read(read, 65536):
            said += more
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 65536):
        said += more
    os.close(read)
    # Each AFTER is followed by the number of evaluations told, as text, and a blank.
    words = said.replace(BEFORE, b"").replace(DONE, b"").split(AFTER)
    whole = [word for word in words if word.endswith(b" ") and word.strip().isdigit()]
    return DONE in said, said.count(BEFORE) > said.count(AFTER), int(whole[-1]) if whole else 0


def _run(name: str, path: Path, seed: int, pipe: int) -> None:
    append = RunRecord.append

    def telling(statement: str) -> None:
        if statement.startswith("COMMIT"):
            os.write(pipe, BEFORE)

    def watched(self: RunRecord, rows: Sequence[Row]) -> None:
        self._connection.set_trace_callback(telling)
        append(self, rows)
        os.write(pipe, AFTER + str(self.tail.evaluations).encode() + b" ")

    RunRecord.append = watched  # type: ignore[method-assign]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        minimize(Free(seconds=0.0005), name, BUDGET, seed=seed, record=path, resume=True)
        os.write(pipe, b" " + DONE)
    finally:
        os._exit(0)


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
