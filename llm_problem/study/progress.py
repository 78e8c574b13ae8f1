"""Live lines: of one optimizer (evaluations, best loss, rate, time left), and of a study's runs."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llm_problem.harmless import printable

EVERY = 15.0  # seconds between lines where there is no terminal


class ProgressLine:
    """Shows how one optimizer is doing, on standard error; plain lines now and then where that is no terminal."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.console = Console(file=sys.stderr)
        self.started = self.shown = time.monotonic()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )

    def __enter__(self) -> ProgressLine:
        if self.console.is_terminal:
            self.progress.start()
            self.task = self.progress.add_task(self.name, total=self.total or None, state="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.console.is_terminal:
            self.progress.stop()

    def update(self, evaluations: int, best_loss: float) -> None:
        now = time.monotonic()
        rate = evaluations / max(now - self.started, 1e-9)
        state = f"best {best_loss:.4f}, {rate:.3g} evaluations/s"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=evaluations, state=state)
        elif now - self.shown >= EVERY or evaluations >= self.total:
            self.shown = now
            print(f"{self.name}: {evaluations}/{self.total}, {state}", file=sys.stderr, flush=True)


class StudyProgress:
    """How far a study is, on standard error: runs, time left, what each worker is at; lines now and then elsewhere.

    Args:
        runs: in all.
        found: that had finished before.
        budget: evaluations of each.
        workers: how many share them.
        shown: False for silence.
    """

    def __init__(self, runs: int, found: int, budget: int, workers: int, shown: bool = True) -> None:
        self.runs, self.done, self.budget, self.workers, self.shown = runs, found, budget, workers, shown
        self.console = Console(file=sys.stderr)
        self.started = self.last = time.monotonic()
        self.ended_here, self.failed = 0, 0
        self.part: dict[int, float] = {}  # worker → share of its run that is done
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.lines: dict[int, Any] = {}

    def __enter__(self) -> StudyProgress:
        if self.shown and self.console.is_terminal:
            self.progress.start()
            self.whole = self.progress.add_task("study", total=self.runs, completed=self.done, state="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.shown and self.console.is_terminal:
            self.progress.stop()

    def update(self, worker: int, name: str, evaluations: int, best_loss: float | None) -> None:
        """A worker is so far with a run."""
        self.part[worker] = evaluations / self.budget
        state = f"{evaluations}/{self.budget}" + ("" if best_loss is None else f", best {best_loss:.4f}")
        self._show(worker, name, evaluations, state)

    def ended(self, worker: int, name: str, problem: str, error: str | None) -> None:
        """A run has ended; `error` is what a failed one raised."""
        self.part[worker] = 0.0
        self.done += 1
        self.ended_here += 1
        if error is not None:
            self.failed += 1
            if self.shown:
                self.console.print(printable(f"{name} failed: {error}"), markup=False, highlight=False, soft_wrap=True)
        self._show(worker, name, self.budget, "done")

    def _show(self, worker: int, name: str, evaluations: int, state: str) -> None:
        if not self.shown:
            return
        now = time.monotonic()
        whole = f"{self.done}/{self.runs} runs, {self._left(now)}"
        if self.console.is_terminal:
            if worker not in self.lines:
                self.lines[worker] = self.progress.add_task(name, total=self.budget, state="")
            line = printable(name if len(name) <= 70 else name[:69] + "…")
            self.progress.update(self.lines[worker], description=line, completed=evaluations, state=state)
            self.progress.update(self.whole, completed=self.done, state=whole)
        elif now - self.last >= EVERY or self.done == self.runs:
            self.last = now
            print(f"{whole}; {printable(name)}: {state}", file=sys.stderr, flush=True)

    def _left(self, now: float) -> str:
        """The time left, as if the runs to come took as long as those of this call."""
        spent = self.ended_here + sum(self.part.values())
        failed = f", {self.failed} failed" if self.failed else ""
        if spent <= 0:
            return f"time left unknown{failed}"
        seconds = (now - self.started) / spent * max(0.0, self.runs - self.done - sum(self.part.values()))
        return f"about {duration(seconds)} left{failed}"


def duration(seconds: float) -> str:
    """Such as "2 h 05 min", "3 min" or "12 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
