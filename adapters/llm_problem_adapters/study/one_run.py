"""One run of a study: an optimizer on a problem with a seed, recorded, and what came of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from llm_problem.problem import Problem
from llm_problem.records import RecordInUse
from llm_problem.study.config import Study
from llm_problem.study.runs import Ended, Run, StudyFolder
from llm_problem.suites.suite import Entry
from llm_problem.tasks.rows import UnusableSplit
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.replaying import replays
from llm_problem_adapters.restarting import restarting
from llm_problem_adapters.result import Progress, Result

SPLITS = ("dev", "test")


def perform(
    run: Run, problem: Problem, study: Study, folder: StudyFolder, show: Callable[[Progress], None] | None = None
) -> Ended:
    """Begin the run or go on with it, and write down what came of it.

    What the optimizer or an evaluation raises becomes a run that failed, except an interruption, and another process
    that works on the same run.
    """
    name, policy = run.optimizer.name, study.policy
    options = dict(run.optimizer.options)
    optimizer, given = (restarting(name, options), {}) if policy.restarts else (name, options)
    path = folder.record(run)
    if not replays(name):  # cannot go on, so begins anew
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
    try:
        result = minimize(
            problem,
            optimizer,
            study.budget,
            seed=run.seed,
            batch_size=policy.batch_size,
            start_at_x0=policy.start_at_x0,
            record=path,
            record_points=False,
            resume=True,
            callback=show,
            **given,
        )
        if result.stop_reason == "interrupted":  # the record goes on another time
            raise KeyboardInterrupt
        ended = summary(run, result, {split: _metrics(problem, result.x, split) for split in SPLITS})
    except RecordInUse:
        raise
    except Exception as error:
        ended = Ended(run.problem.name, run.optimizer.label, run.seed, "failed", error=_said(error))
        partial = getattr(error, "partial_result", None)
        if partial is not None:
            ended.evaluations, ended.improvements = partial.evaluations, improvements(partial)
    folder.write_ended(run, ended)
    return ended


def summary(run: Run, result: Result, held_out: dict[str, dict[str, float]]) -> Ended:
    """What a finished run leaves."""
    return Ended(
        run.problem.name,
        run.optimizer.label,
        run.seed,
        "finished",
        stop_reason=result.stop_reason,
        evaluations=result.evaluations,
        best_loss=result.best_loss if np.isfinite(result.best_loss) else None,
        loss=result.loss if np.isfinite(result.loss) else None,
        last_loss=float(result.losses[-1]) if np.isfinite(result.losses[-1]) else None,
        non_finite=int(np.sum(result.status == "non-finite")),
        improvements=improvements(result),
        held_out=held_out,
        gradients=result.used_gradients,
        seconds=round(result.seconds, 3),
    )


def improvements(result: Result) -> list[tuple[int, float]]:
    """(evaluation, loss) of each loss below all before it, of feasible points."""
    losses = np.where(np.isfinite(result.losses), result.losses, np.inf)
    if result.violations is not None:
        losses = np.where(result.violations > 0, np.inf, losses)
    best = np.minimum.accumulate(losses)
    first = np.flatnonzero(best < np.concatenate(([np.inf], best[:-1])))
    return [(int(i) + 1, float(best[i])) for i in first]


def describe(entry: Entry, problem: Problem) -> dict[str, Any]:
    """What a report needs to know of a problem."""
    known = entry.card or {}
    if known.get("fingerprint") != problem.fingerprint:  # another machine's basis changes no fingerprint
        known = {}
    return {
        "name": entry.name,
        "task": entry.task,
        "model": problem.spec.model,
        "subspace": problem.spec.subspace.kind,
        "dimension": problem.dimension,
        "unit": problem.unit,
        "objective": problem.objectives[0],
        "fingerprint": problem.fingerprint,
        "headline": list(problem.spec.task.headline),
        "f0": problem(problem.x0),
        **({"signatures": signatures} if (signatures := problem.spec.task.signatures) else {}),
        "pretrained": {split: _metrics(problem, problem.x0, split) for split in SPLITS},
        "targets": known.get("targets"),
        "reference": known.get("reference"),
    }


def _metrics(problem: Problem, x: np.ndarray, split: str) -> dict[str, float]:
    """Of a split that no optimizer sees; empty where the task has none that anything can be measured on."""
    try:
        problem.batch(split)
    except UnusableSplit:
        return {}
    return problem.metrics(x, split)


def _said(error: Exception) -> str:
    """The error in a line, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"[:2_000]
