"""A point that a run has found, out of the run's folder: as an adapter or as a whole model."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem.evaluation.choice import TOLERANCE
from llm_problem.new_folder import require_new

if TYPE_CHECKING:
    from llm_problem.problem import Problem

POINTS = {"recommended": ("x", "loss"), "best": ("best_x", "best_loss")}
"""Which point → its name among the run's points, and that of its search loss among the run's results."""
_POINT_NOTES = {"recommended": "recommended by the optimizer", "best": "the best seen on the search split"}


@dataclass(frozen=True)
class Exported:
    """What was written, where, whose point it is, and why that one."""

    what: str
    path: Path
    optimizer: str
    why: str
    point: str


def export_run(
    run: str | os.PathLike[str],
    *,
    optimizer: str | None = None,
    out: str | os.PathLike[str] | None = None,
    merged: bool = False,
    point: str = "recommended",
) -> Exported:
    """Write a point of a run as a PEFT adapter, or merged into a whole model.

    Args:
        run: the folder that `llm-problem run` wrote.
        optimizer: whose point; None takes the one with the lowest first objective: of recommended points on the dev
            split, where the run has recorded that of all, else on the search split.
        out: a folder that does not exist yet; None makes one in the run's folder.
        merged: a whole model instead of an adapter.
        point: "recommended" by the optimizer, or the "best" that it has seen.

    Raises:
        ValueError: no such run, optimizer or point; a problem that is not what it was then; or a point that cannot be
            written this way.
        FileExistsError: `out` exists.
    """
    from llm_problem.problem import Problem
    from llm_problem.spec import ProblemSpec

    if point not in POINTS:
        raise ValueError(f"point must be one of {', '.join(POINTS)}, got {point!r}")
    config, result, points = _read(Path(run))
    spec = ProblemSpec.from_dict(config["problem"])
    name, why = _choose(spec.objectives[0], result, points, optimizer, point)
    what = "model" if merged else "adapter"
    slug = re.sub(r"[^\w.@-]+", "_", name) + ("" if point == "recommended" else f"-{point}")
    path = Path(out) if out is not None else Path(run) / f"{what}-{slug}"
    require_new(path)  # before a model is loaded for nothing
    problem = Problem.from_spec(spec)
    row = next(row for row in result["results"] if row["optimizer"] == name)
    x = points[f"{name}/{POINTS[point][0]}"]
    _require_unchanged(problem, x, config.get("fingerprint"), row.get(POINTS[point][1]))
    if not x.any():
        why += "; its point is x = 0, the pretrained model, which nothing that it tried has beaten"
    save = problem.save_model if merged else problem.save_adapter
    save(
        x,
        path,
        notes=_notes(config, row, point, x),
        held_out=_held_out(result, row) if point == "recommended" else None,
    )
    return Exported(what, path, name, why, point)


def _read(run: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """The run's configuration, results and points.

    Raises:
        ValueError: this is no run folder, or one of a run that has found nothing yet.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if (run / "study.json").is_file():
        raise ValueError(
            f"{run} is a study, which keeps no points: run the problem and optimizer that you want with llm-problem "
            "run, and export that"
        )
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} is no run folder: config.json, which llm-problem run writes, was expected in it")
    config = _json(run / "config.json", ("problem", "optimizers"))
    missing = [name for name in ("result.json", "points.safetensors") if not (run / name).is_file()]
    if missing:
        raise ValueError(f"{run} has no {' and no '.join(missing)}: no optimizer of this run has ended yet")
    try:
        points = load_file(run / "points.safetensors")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{run / 'points.safetensors'} cannot be read: {error}") from error
    result = _json(run / "result.json", ("results",))
    rows = result["results"]
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise ValueError(f"{run / 'result.json'} is not of a run: its results are no list of what optimizers found")
    return config, result, points


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("optimizer"), str)


def _json(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict) or not all(key in values for key in keys):
        raise ValueError(f"{path} is not of a run: a JSON object with {', '.join(keys)} was expected")
    return values


def _choose(
    objective: str, result: dict[str, Any], points: dict[str, np.ndarray], wanted: str | None, point: str
) -> tuple[str, str]:
    """The optimizer whose point is taken, and why."""
    key, loss = POINTS[point]
    rows = {row["optimizer"]: row for row in result["results"] if f"{row['optimizer']}/{key}" in points}
    if not rows:
        raise ValueError("no optimizer of this run has found a point: " + _failures(result))
    if wanted is not None:
        if wanted not in rows:
            failed = _failures(result, wanted)
            raise ValueError(
                f"optimizer {wanted!r} has no point in this run{failed and f' ({failed})'}: there are {', '.join(rows)}"
            )
        return wanted, "as asked for"
    if len(rows) == 1:
        return next(iter(rows)), "the only one with a point"
    split, values = "search", {name: row.get(loss) for name, row in rows.items()}
    if point == "recommended":  # which alone was measured on other splits
        dev = {name: _metrics(row, "dev") for name, row in rows.items()}
        if all(objective in metrics for metrics in dev.values()):
            split, values = "dev", {name: metrics[objective] for name, metrics in dev.items()}

    def rank(name: str) -> tuple[bool, float]:
        value = values[name]
        return not rows[name].get("feasible", True), math.inf if value is None else value

    best = min(rows, key=rank)
    why = f"lowest {objective} on the {split} split of {len(rows)}: {_number(values[best])}"
    return best, why + ("; dev was not read for all of them" if split == "search" and point == "recommended" else "")


def _metrics(values: dict[str, Any], split: str) -> dict[str, Any]:
    """What a row, or the pretrained model's record, says of a split."""
    found = values.get(split)
    return found if isinstance(found, dict) else {}


def _failures(result: dict[str, Any], name: str | None = None) -> str:
    failed = [row for row in result["results"] if "error" in row and name in (None, row["optimizer"])]
    return "; ".join(f"{row['optimizer']} failed: {row['error']}" for row in failed)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6f}"


def _require_unchanged(problem: Problem, x: np.ndarray, fingerprint: str | None, loss: float | None) -> None:
    """The problem is the one that was searched: its fingerprint is the same, and so is the point's loss.

    A basis from a singular value decomposition may differ from one machine to another, which only the loss shows.
    """
    if fingerprint not in (None, problem.fingerprint):
        raise ValueError(
            "the problem is not the one that was searched: its model, data or settings have changed since (fingerprint "
            f"{problem.fingerprint[:12]} now, {fingerprint[:12]} then)"
        )
    if loss is None or problem.objectives[0] != "loss":  # others move in steps, which rounding can turn
        return
    found, limit = problem(x), TOLERANCE[problem.spec.dtype] * max(1.0, abs(loss))
    if not abs(found - loss) <= limit:
        raise ValueError(
            f"the point's loss is {found:.6f} here and was {loss:.6f} in the run: its basis or its model came out "
            "otherwise on this machine; export it on the machine of the run"
        )


def _notes(config: dict[str, Any], row: dict[str, Any], point: str, x: np.ndarray) -> dict[str, Any]:
    command, versions = config.get("command"), config.get("versions")
    notes = {
        "optimizer": row["optimizer"],
        "point": _POINT_NOTES[point] + ("" if x.any() else ": x = 0, the pretrained model"),
        "evaluations": row.get("evaluations"),
        "budget": config.get("budget"),
        "seed": row.get("seed", config.get("seed")),
        "stopped by": row.get("stop_reason"),
        "command": _as_typed(command) if isinstance(command, list) and command else None,
        "started": config.get("started"),
        "versions": {name: v for name, v in versions.items() if v is not None} if isinstance(versions, dict) else {},
    }
    return {name: value for name, value in notes.items() if value not in (None, {})}


def _held_out(result: dict[str, Any], row: dict[str, Any]) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
    """The metrics that the run has recorded of the pretrained model and the recommended point, split by split."""
    pretrained = _metrics(result, "pretrained")
    pairs = {split: (_numbers(pretrained, split), _numbers(row, split)) for split in ("dev", "test")}
    return {split: pair for split, pair in pairs.items() if pair[1]}


def _numbers(values: dict[str, Any], split: str) -> dict[str, float]:
    """Metrics of a split; what was not finite is null in JSON."""
    return {name: math.nan if value is None else value for name, value in _metrics(values, split).items()}


def _as_typed(command: list[Any]) -> str:
    program, *arguments = map(str, command)
    return " ".join(["python -m llm_problem" if program == "__main__.py" else program, *map(shlex.quote, arguments)])
