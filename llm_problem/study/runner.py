"""Run several optimizers on one problem, one after another, into one folder.

`minimize` comes in as an argument: this side knows no optimizers.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.installed import version
from llm_problem.problem import Problem
from llm_problem.records import RecordError, RecordInUse
from llm_problem.records.lock import WriterLock
from llm_problem.registry import make
from llm_problem.study.folder import RunFolder, finite_json
from llm_problem.study.plots import convergence_png
from llm_problem.study.progress import ProgressLine
from llm_problem.tasks.rows import UnusableSplit
from llm_problem.workers import WorkerPool

TIME_LIMIT = "time limit"  # a stop_reason of `minimize`
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
    A split that nothing can be measured on, being empty or of a single class, has no metrics.
    """

    problem: str
    folder: Path
    picture: Path
    metric_names: tuple[str, ...]
    pretrained: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False
    out_of_time: bool = False  # the time limit came before the budget was spent

    @property
    def exit_code(self) -> int:
        if self.interrupted:
            return 130
        return 1 if any("error" in row for row in self.rows) else 3 if self.out_of_time else 0

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
    start_at_x0: bool = True,
    out: str | None = None,
    resume: bool = False,
    seconds: float | None = None,
    evaluation_seconds: float | None = None,
    memory: float | None = None,
    workers: int | None = None,
) -> Outcome:
    """Run each optimizer on a named problem and write the run folder.

    Args:
        id: the problem.
        optimizers: names that `minimize` takes.
        minimize: `llm_problem_adapters.minimize`.
        budget: evaluations for each optimizer.
        seed: of each optimizer.
        start_at_x0: whether the pretrained model is evaluation one of each, as for `minimize`.
        out: a folder that does not exist yet; None makes one in runs/.
        resume: go on with the run in `out`, where there is one.
        seconds: after which nothing more is evaluated; None is no limit.
        evaluation_seconds: after which one evaluation is given up, status "timed out".
        memory: GB (10⁹ bytes) of the process that evaluates, past which an evaluation is given up, status "failed".
        workers: processes that evaluate what an optimizer asks for together; None evaluates here.

    Raises:
        FileExistsError: the folder exists.
        ValueError: an unknown problem, or another run than the one to go on with.
        RecordInUse: another process works in the folder.
    """
    end = None if seconds is None else time.monotonic() + seconds
    path = Path(out) if out is not None else new_run_folder(id)
    resume = resume and path.exists()
    with contextlib.ExitStack() as held:
        if resume:
            _require_same(path, id, optimizers, budget, seed, start_at_x0)
            held.callback(WriterLock(path / "run").release)  # before anything of another process's is written over
        elif path.exists():  # before a model is loaded for nothing
            raise FileExistsError(f"{path} exists already and is not overwritten: choose another --out")
        problem = make(id)
        of_one: dict[str, Any] = {"evaluation_seconds": evaluation_seconds}
        of_one["memory"] = None if memory is None else max(1, int(1e9 * memory))
        shared = {}
        if workers is not None:  # before a folder is there, if they cannot be had
            shared, of_one = {"workers": held.enter_context(WorkerPool(problem, workers, **of_one))}, {}
        folder = held.enter_context(RunFolder(path, constrained=bool(problem.constraints), resume=resume))
        if not resume:
            held.callback(WriterLock(path / "run").release)
            folder.write_config(_config(problem, optimizers, budget, seed, start_at_x0))
        outcome = Outcome(id, path, path / "convergence.png", problem.spec.task.headline, {})
        with ProgressLine("pretrained", total=0):
            outcome.pretrained = {"search_loss": problem(problem.x0), **_held_out(problem, problem.x0)}
        histories: dict[str, np.ndarray] = {}
        points: dict[str, np.ndarray] = {}
        for name in optimizers:
            limits = {"seconds": None if end is None else max(1e-3, end - time.monotonic()), **of_one}
            settings = {"seed": seed, "start_at_x0": start_at_x0, "limits": limits, **shared}
            _run_one(problem, name, minimize, budget, settings, folder, outcome, histories, points)
            _write(problem, folder, outcome, histories, points, seed)
            late = end is not None and time.monotonic() >= end and name != optimizers[-1]
            outcome.out_of_time = late or outcome.rows[-1].get("stop_reason") == TIME_LIMIT
            if outcome.interrupted or outcome.out_of_time:
                break
    return outcome


def _run_one(
    problem: Problem,
    name: str,
    minimize: Callable[..., Any],
    budget: int,
    settings: dict[str, Any],
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
            keep: dict[str, Any] = {"record": folder.record(name), "resume": True}
            result = minimize(problem, name, budget, callback=record, **settings, **keep)
        except RecordInUse:  # a run of its own is going on
            raise
        except Exception as error:  # reported with its trace; other optimizers are not its hostages
            if not isinstance(error, (MemoryError, ImportError, RecordError)):  # whose message says all
                traceback.print_exc(file=sys.stderr)
            outcome.rows.append({"optimizer": name, "error": f"{type(error).__name__}: {error}"})
            partial = getattr(error, "partial_result", None)
            if partial is not None:
                histories[_label(name, partial)] = _feasible_losses(partial)
            return
    histories[_label(name, result)] = _feasible_losses(result)
    points[f"{name}/x"], points[f"{name}/best_x"] = result.x, result.best_x
    outcome.interrupted = result.stop_reason == "interrupted"
    stopped = result.stop_reason in ("interrupted", TIME_LIMIT)
    held_out: dict[str, dict[str, float]] = {"dev": {}, "test": {}}
    change: dict[str, dict[str, Any]] = {}
    if not stopped:
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
            "given_up": int(np.isin(result.status, ("failed", "timed out")).sum()),
            "seconds": result.seconds,
            "stop_reason": result.stop_reason,
            "seed": settings["seed"],
            **({"used_gradients": True} if result.used_gradients else {}),
            **({"feasible": result.feasible} if problem.constraints else {}),
        }
    )


def _label(name: str, result: Any) -> str:
    """What the run is called in the picture."""
    return f"{name} (given gradients)" if result.used_gradients else name


def _held_out(problem: Problem, x: np.ndarray) -> dict[str, dict[str, float]]:
    """The metrics at x (d,) on the splits that no optimizer sees; none on one that nothing can be measured on."""
    found: dict[str, dict[str, float]] = {"dev": {}, "test": {}}
    for split in found:
        with contextlib.suppress(UnusableSplit):
            problem.batch(split)
            found[split] = problem.metrics(x, split)
    return found


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
    if outcome.interrupted:  # drawing may take longer than whoever sent the signal waits
        return
    picture = convergence_png(
        histories,
        baseline=outcome.pretrained["search_loss"],
        title=f"{problem.name}, seed {seed}",
        ylabel=f"best search {problem.objectives[0]}" + (f" ({problem.unit})" if problem.unit else ""),
    )
    folder.write_picture(outcome.picture.name, picture)


def _config(problem: Problem, optimizers: Sequence[str], budget: int, seed: int, start_at_x0: bool) -> dict[str, Any]:
    return {
        "problem": problem.spec.to_dict(),
        "fingerprint": problem.fingerprint,
        "optimizers": list(optimizers),
        "budget": budget,
        "seed": seed,
        "start_at_x0": start_at_x0,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _require_same(path: Path, id: str, optimizers: Sequence[str], budget: int, seed: int, start_at_x0: bool) -> None:
    """What is resumed must be the same run; its records are compared in more detail where they are opened."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        spec = config["problem"]
        name = spec["id"] if not spec["instance"] else f"{spec['id']}@{spec['instance']}"
        before = {"problem": name, **{key: config[key] for key in ("optimizers", "budget", "seed", "start_at_x0")}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no folder of a run that could go on: {error}") from error
    wanted = {"problem": id, "optimizers": list(optimizers), "budget": budget, "seed": seed, "start_at_x0": start_at_x0}
    if before != wanted:
        different = "; ".join(f"{key} {before[key]}, not {wanted[key]}" for key in wanted if before[key] != wanted[key])
        raise ValueError(f"{path} is of another run: {different}")


def new_run_folder(id: str) -> Path:
    """A name in runs/ that nothing has yet."""
    stem = re.sub(r"[^\w.@-]+", "_", id)
    first = path = Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 2
    while path.exists():
        path = first.with_name(f"{first.name}_run{number}")
        number += 1
    return path
