"""A run folder: what was run, every evaluation, the result, the points and a picture.

config.json          the problem's description, the optimizers, budget, seeds, versions
records/             every evaluation with its point, one SQLite file an optimizer: what a resumed run goes by
history.csv          one row an evaluation, written while the run goes on; with a violation where there are constraints
result.json          the summary, once the run has ended
points.safetensors   recommended and best points, `<optimizer>/x` and `<optimizer>/best_x`
convergence.png      best loss against evaluations
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from llm_problem.harmless import plain_cell, safe_name

HISTORY = ("optimizer", "evaluation", "loss", "best_loss", "status", "seconds")


class RunFolder:
    """Writes one run; use as a context manager.

    Args:
        path: the folder.
        constrained: whether the problem has constraints.
        resume: the folder is one that a run has left; its history is written anew, from its records.

    Raises:
        FileExistsError: the folder is there already; nothing is ever overwritten.
    """

    def __init__(self, path: str | os.PathLike[str], constrained: bool = False, resume: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not resume:
            raise FileExistsError(f"{self.path} exists already and is not overwritten: choose another --out")
        self.path.mkdir(parents=True, exist_ok=resume)
        self._file: IO[str] = (self.path / "history.csv").open("w", newline="", encoding="utf-8")
        self._history = csv.writer(self._file, lineterminator="\n")
        self._history.writerow((*HISTORY, "violation") if constrained else HISTORY)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def record(self, optimizer: str) -> Path:
        """Where the optimizer's evaluations are recorded."""
        return self.path / "records" / f"{safe_name(optimizer)}.sqlite"

    def write_config(self, config: Mapping[str, Any]) -> None:
        self._write("config.json", json.dumps(config, indent=2))

    def add_evaluations(
        self,
        optimizer: str,
        first: int,
        losses: np.ndarray,
        status: np.ndarray,
        best: float,
        seconds: float,
        violations: np.ndarray | None = None,
    ) -> None:
        """Append a batch to history.csv.

        Args:
            optimizer: its name.
            first: number of the first evaluation of the batch, counted from 1.
            losses: (k,) as they were found.
            status: (k,) of each evaluation, such as "ok", "non-finite" or "gradient".
            best: best finite loss of a feasible point before this batch, +inf if there was none.
            seconds: since this optimizer's start.
            violations: (k,) by how much the constraints are violated, where there are any.
        """
        amounts = [None] * len(losses) if violations is None else violations.tolist()
        batch = zip(losses.tolist(), status.tolist(), amounts, strict=True)
        for number, (loss, kind, violation) in enumerate(batch, start=first):
            best = min(best, loss) if np.isfinite(loss) and not violation else best
            # repr is the shortest text that gives the same float64 back.
            row = (plain_cell(optimizer), number, repr(loss), repr(best), kind, f"{seconds:.3f}")
            self._history.writerow(row if violation is None else (*row, repr(violation)))
        self._file.flush()

    def write_result(self, result: Mapping[str, Any]) -> None:
        self._write("result.json", json.dumps(finite_json(result), indent=2, allow_nan=False))

    def write_points(self, points: Mapping[str, np.ndarray]) -> None:
        from safetensors.numpy import save

        self._write("points.safetensors", save({k: np.ascontiguousarray(v) for k, v in points.items()}))

    def write_picture(self, name: str, png: bytes) -> Path:
        return self._write(name, png)

    def _write(self, name: str, content: str | bytes) -> Path:
        """The whole file or none: written aside, then renamed."""
        data = content.encode() + b"\n" if isinstance(content, str) else content
        handle, part = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o644)
            os.replace(part, self.path / name)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        return self.path / name


def finite_json(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {k: finite_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_json(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
