"""Racing: candidates that fall behind on a part of the examples are given up before they have cost the whole.

After each part a candidate's losses are compared, example by example, with those of the point to beat; it is given up
where its mean is behind by more than z standard errors of the paired difference (Maron & Moore 1994 raced so with
Hoeffding's bound, Birattari et al. 2002 with statistical tests). What is given up has no value: it is censored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llm_problem.evaluation import SerialEvaluator
from llm_problem.tasks.base import Task
from llm_problem.tasks.batch import TokenBatch

Marks = dict[TokenBatch, tuple[np.ndarray, np.ndarray]]
FEWEST = 6  # examples before a candidate is judged: a standard error of fewer says little


def race(
    evaluator: SerialEvaluator,
    task: Task,
    X: np.ndarray,
    against: np.ndarray,
    parts: Sequence[TokenBatch],
    z: float,
    marks: Marks,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses (n,), NaN where given up, and status (n,); see `Problem.race`.

    Args:
        evaluator: gives log-probabilities.
        task: makes losses of them.
        X: (n, d) candidates; rows that are not finite have the loss NaN.
        against: (1, d) the point to beat.
        parts: the examples, part by part.
        z: standard errors.
        marks: the losses of `against`, part by part; filled here, and emptied by whoever races another one.
    """
    if not z >= 0:
        raise ValueError(f"z must not be negative, got {z!r}")
    finite = np.isfinite(X).all(axis=1)
    found = np.full(len(X), np.nan)
    status = np.where(finite, "censored", "non-finite")
    running = np.flatnonzero(finite)
    losses: list[list[np.ndarray]] = [[] for _ in X]
    theirs: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for part in parts:
        if not running.size:
            break
        if part not in marks:
            marks[part] = task.example_losses(evaluator.log_probs(against, part)[0], part)
        reference, weight = marks[part]
        theirs.append(reference)
        weights.append(weight)
        for i, values in zip(running, evaluator.log_probs(X[running], part), strict=True):
            losses[i].append(task.example_losses(values, part)[0])
        broken = [i for i in running if not np.isfinite(losses[i][-1]).all()]  # and so will the whole be
        status[broken] = "non-finite"
        if part is not parts[-1]:
            seen = np.concatenate(theirs)
            late = [i for i in running if behind(np.concatenate(losses[i]), seen, z)]
            running = np.setdiff1d(running, [*broken, *late]).astype(np.int64)
        else:
            running = np.setdiff1d(running, broken).astype(np.int64)
    if running.size:
        total = np.concatenate(weights)
        found[running] = [np.sum(total * np.concatenate(losses[i])) / np.sum(total) for i in running]
        status[running] = "ok"
    return found, status


def behind(losses: np.ndarray, reference: np.ndarray, z: float) -> bool:
    """Whether losses (m,) are behind a reference (m,) by more than z standard errors; not where one is not finite."""
    difference = losses - reference
    if len(difference) < FEWEST or not np.isfinite(difference).all():
        return False
    error = float(np.std(difference, ddof=1)) / np.sqrt(len(difference))
    return float(np.mean(difference)) > z * error
