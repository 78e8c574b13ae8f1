"""A disk that is full at the n-th write: the run ends cleanly, what it had recorded is whole, and it goes on."""

from __future__ import annotations

import os
import resource
import subprocess
from collections import Counter
from pathlib import Path

from llm_problem.records import RecordFull, RunRecord
from llm_problem_adapters.faults.figures import Figure
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.result import Result

BUDGET, DIMENSION = 120, 16
NAME = "simulated-annealing"
STOPPED, FINISHED, OTHERWISE = 3, 0, 1  # exit codes


def full_disk(folder: Path, limits: range) -> list[Figure]:
    """Run while files may grow to so many bytes each, and go on without; the same in a small file system, if we may."""
    whole = minimize(Free(DIMENSION), NAME, BUDGET, seed=1)
    counts = Counter(_outcome(folder / f"full-{limit}.sqlite", whole, limit) for limit in limits)
    figures = [_figure("files may grow to a limit", counts, f", {limits[0]:,} to {limits[-1]:,} bytes")]
    small = folder / "small"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:  # that takes a privilege
        return figures
    try:
        counts = Counter()
        for taken in range(0, 4096, 160 if len(limits) > 20 else 1024):
            ballast = small / "ballast"
            ballast.write_bytes(bytes(1024 * taken))
            counts[_outcome(small / f"{taken}.sqlite", whole, None, ballast)] += 1
            for file in small.iterdir():
                file.unlink()
    finally:
        subprocess.run(["umount", str(small)], check=False)
    return [*figures, _figure("a file system of 4 MB, more or less of it taken", counts)]


def _figure(fault: str, counts: Counter[str], more: str = "") -> Figure:
    found = "; ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    return Figure(f"disk full: {fault}", f"{counts.total()}{more}", found, "WRONG" not in counts)


def _outcome(path: Path, whole: Result, limit: int | None, ballast: Path | None = None) -> str:
    child = os.fork()
    if child == 0:
        _run(path, limit)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (STOPPED, FINISHED):
        return "WRONG"
    if ballast is not None:
        ballast.unlink()
    kept = 0
    if path.exists():
        with RunRecord.read(path) as record:
            kept = record.tail.evaluations
            if [row.loss for row in record.rows()] != whole.losses[:kept].tolist():
                return "WRONG"
    problem = Free(DIMENSION)
    again = minimize(problem, NAME, BUDGET, seed=1, record=path, resume=True)
    if again.losses.tolist() != whole.losses.tolist() or problem.evaluations != BUDGET - kept:
        return "WRONG"
    return "finished" if code == FINISHED else "stopped and went on" if kept else "not begun, and begun later"


def _run(path: Path, limit: int | None) -> None:
    code = OTHERWISE
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        minimize(Free(DIMENSION), NAME, BUDGET, seed=1, record=path)
        code = FINISHED
    except RecordFull:
        code = STOPPED
    finally:
        os._exit(code)
