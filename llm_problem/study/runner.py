"""Run several optimizers on one problem, one after another, into one folder.

`minimize` comes in as an argument: this side knows no optimizers.
"""

from __future__ import annotations

import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.problem import Problem
from llm_problem.registry import make
from llm_problem.study.folder import RunFolder, finite_json
from llm_problem.study.plots import convergence_png
from llm_problem.study.progress import ProgressLine

LIBRARIES = ("llm-problem", "numpy", "torch", "transformers", "nevergrad", "pymoo", "cma", "optuna")


@dataclass
class Outcome:
    """What a run found.

    `pretrained` has the search loss and the metrics on the other splits. Each of `rows` has the search loss of the best
    point seen (`best_loss`), that of the recommended point (`loss`), the recommended point's metrics on the other
    splits (`dev`, which a choice between optimizers may go by, and `test`; both empty where the run was interrupted),
    by how much its test metrics differ from the pretrained model's (`change`: for each the paired interval and the
    verdict of `Problem.compare`), what the optimizer spent, "used_gradients" where it was given gradients and, with
    constraints, whether a feasible point was found (`feasible`); a row of an optimizer that failed has "error" instead.
    `dev` is empty where the task has no such split.
    """

    problem: str
    folder: Path
    picture: Path
    metric_names: tuple[str, ...]
    pretrained: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if any("error" in row for row in self.rows) else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return finite_json(
            {
                "problem": self.problem,
                "folder": str(self.folder),
                "picture": str(self.picture),
                "pretrained": self.pretrained,
                "results": self.rows,
                "interrupted": self.interrupted,
            }
        )


def run_optimizers(
    id: str,
    optimizers: Sequence[str],
    minimize: Callable[..., Any],
    *,
    budget: int,
    seed: int,
    out: str | None = None,
) -> Outcome:
    """Run each optimizer on a named problem and write the run folder.

    Args:
        id: the problem.
        optimizers: names that `minimize` takes.
        minimize: `llm_problem_adapters.minimize`.
        budget: evaluations for each optimizer.
        seed: of each optimizer.
        out: a folder that does not exist yet; None makes one in runs/.

    Raises:
        FileExistsError: the folder exists.
        ValueError: an unknown problem.
    """
    path = Path(out) if out is not None else _new_folder(id)
    if path.exists():  # before a model is loaded for nothing
        raise FileExistsError(f"{path} exists already and is not overwritten: choose another --out")
    problem = make(id)
    with RunFolder(path, constrained=bool(problem.constraints)) as folder:
        folder.write_config(_config(problem, optimizers, budget, seed))
        outcome = Outcome(id, path, path / "convergence.png", problem.spec.task.headline, {})
        with ProgressLine("pretrained", total=0):
            outcome.pretrained = {"search_loss": problem(problem.x0), **_held_out(problem, problem.x0)}
        histories: dict[str, np.ndarray] = {}
        points: dict[str, np.ndarray] = {}
        for name in optimizers:
            _run_one(problem, name, minimize, budget, seed, folder, outcome, histories, points)
            _write(problem, folder, outcome, histories, points, seed)
            if outcome.interrupted:
                break
    return outcome


def _run_one(
    problem: Problem,
    name: str,
    minimize: Callable[..., Any],
    budget: int,
    seed: int,
    folder: RunFolder,
    outcome: Outcome,
    histories: dict[str, np.ndarray],
    points: dict[str, np.ndarray],
) -> None:
    """One optimizer, its row and its points; what it raises becomes its row, and the rest goes on."""
    with ProgressLine(name, total=budget) as line:
        best = np.inf

        def record(progress: Any) -> None:
            nonlocal best
            first = progress.evaluations - len(progress.losses) + 1
            found = (progress.losses, progress.status, best, progress.seconds, progress.violations)
            folder.add_evaluations(name, first, *found)
            best = progress.best_loss
            line.update(progress.evaluations, progress.best_loss)

        try:
            result = minimize(problem, name, budget, seed=seed, callback=record)
        except Exception as error:  # reported with its trace; other optimizers are not its hostages
            if not isinstance(error, (MemoryError, ImportError)):  # whose message says all
                traceback.print_exc(file=sys.stderr)
            outcome.rows.append({"optimizer": name, "error": f"{type(error).__name__}: {error}"})
            partial = getattr(error, "partial_result", None)
            if partial is not None:
                histories[_label(name, partial)] = _feasible_losses(partial)
            return
    histories[_label(name, result)] = _feasible_losses(result)
    points[f"{name}/x"], points[f"{name}/best_x"] = result.x, result.best_x
    outcome.interrupted = result.stop_reason == "interrupted"
    held_out: dict[str, dict[str, float]] = {"dev": {}, "test": {}}
    change: dict[str, dict[str, Any]] = {}
    if not outcome.interrupted:
        try:
            held_out = _held_out(problem, result.x)
            change = _change(problem, result.x)
        except KeyboardInterrupt:  # the search is over: its result is kept
            outcome.interrupted = True
    outcome.rows.append(
        {
            "optimizer": name,
            "best_loss": result.best_loss,
            "loss": result.loss,
            **held_out,
            "change": change,
            "evaluations": result.evaluations,
            "non_finite": int(np.sum(result.status == "non-finite")),
            "seconds": result.seconds,
            "stop_reason": result.stop_reason,
            "seed": seed,
            **({"used_gradients": True} if result.used_gradients else {}),
            **({"feasible": result.feasible} if problem.constraints else {}),
        }
    )


def _label(name: str, result: Any) -> str:
    """What the run is called in the picture."""
    return f"{name} (given gradients)" if result.used_gradients else name


def _held_out(problem: Problem, x: np.ndarray) -> dict[str, dict[str, float]]:
    """The metrics at x (d,) on the splits that no optimizer sees."""
    try:
        problem.batch("dev")
    except ValueError:  # a task may have no such split
        return {"dev": {}, "test": problem.metrics(x, "test")}
    return {split: problem.metrics(x, split) for split in ("dev", "test")}


def _change(problem: Problem, x: np.ndarray) -> dict[str, dict[str, Any]]:
    """How the test metrics at x (d,) differ from the pretrained model's."""
    try:
        found = problem.compare(problem.x0, x, "test")
    except ValueError:  # a single example has no interval
        return {}
    return {name: {**asdict(change), "verdict": change.verdict} for name, change in found.items()}


def _feasible_losses(result: Any) -> np.ndarray:
    """The losses of a run (evaluations,), NaN where a constraint was violated."""
    return result.losses if result.violations is None else np.where(result.violations > 0, np.nan, result.losses)


def _write(
    problem: Problem,
    folder: RunFolder,
    outcome: Outcome,
    histories: dict[str, np.ndarray],
    points: dict[str, np.ndarray],
    seed: int,
) -> None:
    folder.write_result(outcome.to_dict())
    folder.write_points(points)
    picture = convergence_png(
        histories,
        baseline=outcome.pretrained["search_loss"],
        title=f"{problem.name}, seed {seed}",
        ylabel=f"best search {problem.objectives[0]}" + (f" ({problem.unit})" if problem.unit else ""),
    )
    folder.write_picture(outcome.picture.name, picture)


def _config(problem: Problem, optimizers: Sequence[str], budget: int, seed: int) -> dict[str, Any]:
    return {
        "problem": problem.spec.to_dict(),
        "fingerprint": problem.fingerprint,
        "optimizers": list(optimizers),
        "budget": budget,
        "seed": seed,
        "start_at_x0": True,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _new_folder(id: str) -> Path:
    stem = re.sub(r"[^\w.@-]+", "_", id)
    first = path = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while path.exists():
        path = first.with_name(f"{first.name}_run{number}")
        number += 1
    return path
