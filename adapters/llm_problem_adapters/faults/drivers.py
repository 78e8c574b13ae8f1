"""Two drivers on one run: the second is refused at once and told by whom; a dead one's lock is taken over."""

from __future__ import annotations

import os
import platform
import signal
import time
from functools import partial
from pathlib import Path

from llm_problem.records import RecordInUse
from llm_problem_adapters.faults.figures import Figure
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.minimize import minimize

NAME, BUDGET = "random-search", 200


def _tell(pipe: int, _: object) -> None:
    os.write(pipe, b".")


def drivers(folder: Path) -> list[Figure]:
    """Begin a run in a forked process, try it from here, kill it, and try again."""
    path = folder / "held.sqlite"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            minimize(Free(seconds=0.2), NAME, BUDGET, record=path, callback=partial(_tell, write))
        finally:
            os._exit(0)
    os.close(write)
    os.read(read, 1)
    started, said = time.perf_counter(), ""
    try:
        minimize(Free(), NAME, BUDGET, record=path, resume=True)
    except RecordInUse as error:
        said = str(error)
    seconds = time.perf_counter() - started
    named = f"process {child} " in said and platform.node() in said
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    left = path.with_name(path.name + ".lock").exists()
    result = minimize(Free(), NAME, BUDGET, record=path, resume=True)
    taken = left and result.evaluations == BUDGET and not path.with_name(path.name + ".lock").exists()
    return [
        Figure(
            "a second driver on the same run",
            "1",
            f"refused after {seconds:.2f} s, {'naming' if named else 'NOT naming'} process and host",
            named and seconds < 1,
        ),
        Figure(
            "a lock left by a killed driver", "1", "taken over, the run finished" if taken else "NOT taken over", taken
        ),
    ]
