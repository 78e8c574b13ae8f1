"""A long run: how memory grows, how large the record is, and how long it takes to tell it all again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from llm_problem.records import RunRecord
from llm_problem_adapters.faults.figures import Figure
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.minimize import minimize

NAME, DIMENSION = "genetic-algorithm", 32
MOST_GROWTH, MOST_SECONDS = 50e6, 10.0  # bytes; seconds


def soak(folder: Path, budget: int) -> list[Figure]:
    """A run of `budget` evaluations, then its record opened and read, then the whole run told again."""
    path, process, before = folder / "soak.sqlite", psutil.Process(), [0]

    def watch(progress: Any) -> None:
        if not before[0] and progress.evaluations >= 1000:
            before[0] = process.memory_info().rss

    result = minimize(Free(DIMENSION), NAME, budget, record=path, callback=watch)
    growth = process.memory_info().rss - before[0]
    started = time.process_time()  # what others do on the machine is none of the record's time
    with RunRecord.open(path) as record:
        rows = sum(1 for _ in record.rows())
    seconds = time.process_time() - started
    problem, started = Free(DIMENSION), time.process_time()
    again = minimize(problem, NAME, budget, record=path, resume=True)
    whole = time.process_time() - started
    same = rows == budget and problem.evaluations == 0 and again.losses.tolist() == result.losses.tolist()
    return [
        Figure(
            f"a long run, {NAME}, d = {DIMENSION}",
            f"{budget:,} evaluations",
            f"memory grew by {growth / 1e6:.1f} MB; {path.stat().st_size / budget:.0f} bytes an evaluation on disk; "
            f"{result.seconds / budget * 1e6:.0f} µs an evaluation in all",
            growth < MOST_GROWTH,
        ),
        Figure(
            "the same run told again",
            f"{budget:,} evaluations",
            f"{'the same' if same else 'ANOTHER'} run; opening, checking and reading the record took {seconds:.1f} s "
            f"of the processor, the optimizer's own part included {whole:.1f} s",
            same and seconds < MOST_SECONDS,
        ),
    ]
