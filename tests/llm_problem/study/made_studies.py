"""Studies whose runs are made up, so that reports are tested without a model."""

from __future__ import annotations

import numpy as np

from llm_problem.study import Study
from llm_problem.study.runs import Ended, StudyFolder, runs_of
from llm_problem.suites import get

PROBLEMS = get("tiny").select("tiny-*", instances=[0]).names


def made_study(path, *, optimizers, problems=3, seeds=3, budget=60, left_out=(), failed=(), gradients=(), seed=0):
    """A study's folder in which optimizer k of `optimizers` falls the faster the larger k is.

    Args:
        path: the new folder.
        optimizers: labels, or tables as in a study file.
        problems: how many.
        seeds: how many.
        budget: evaluations.
        left_out: numbers of runs that are missing, in the study's order.
        failed: of runs that failed.
        gradients: labels that were given gradients.
        seed: of the numbers.
    """
    values = {"name": "made up", "optimizers": optimizers, "problems": PROBLEMS[:problems]}
    study = Study.from_dict({**values, "seeds": seeds, "budget": budget})
    folder, rng = StudyFolder(path), np.random.default_rng(seed)
    folder.begin(study, {"python": "3.x"})
    labels = [o.label for o in study.optimizers]
    for entry in study.problems:
        folder.write_problem(entry, facts_of(entry))
    for number, run in enumerate(runs_of(study)):
        name, label = run.problem.name, run.optimizer.label
        if number in left_out:
            continue
        if number in failed:
            folder.write_ended(run, Ended(name, label, run.seed, "failed", error="RuntimeError: <b>broken</b>"))
            continue
        speed = 1 + labels.index(label)
        losses = 2.0 * np.exp(-speed * np.arange(budget) / budget) + 0.2 * rng.random(budget) * (np.arange(budget) > 0)
        best = np.minimum.accumulate(losses)
        first = np.flatnonzero(best < np.concatenate(([np.inf], best[:-1])))
        found = [(int(k) + 1, float(best[k])) for k in first]
        held_out = {split: {"loss": float(best[-1]) + 0.1, "accuracy": 0.75} for split in ("dev", "test")}
        ended = Ended(
            name, label, run.seed, "finished", stop_reason="budget", evaluations=budget, best_loss=float(best[-1]),
            loss=float(best[-1]), last_loss=float(losses[-1]), improvements=found, held_out=held_out,
            gradients=label in gradients, seconds=float(rng.random()),
        )  # fmt: skip
        folder.write_ended(run, ended)
    return folder


def facts_of(entry):
    """What a worker writes of a problem, made up: f(0) = 2."""
    before = {"loss": 2.1, "accuracy": 0.5}
    return {
        "name": entry.name, "task": entry.task, "model": entry.spec.model, "subspace": entry.spec.subspace.kind,
        "dimension": entry.dimension, "unit": "nats per example", "objective": "loss", "fingerprint": "0" * 64,
        "headline": ["loss", "accuracy"], "f0": 2.0, "pretrained": {"dev": before, "test": before},
        "targets": None, "reference": None,
    }  # fmt: skip
