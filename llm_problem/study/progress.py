"""One live line for one optimizer: evaluations, best loss, rate, time left."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

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
