"""Evaluations a second of one process, of processes, and of Ray's actors; and what they take of memory."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import numpy as np
import torch

import llm_problem as lp
from llm_problem.workers import WorkerPool

RANK = 4


def problem_of(model: str, layers: int, sentences: int) -> Any:
    """LoRA-XS on the last layers, with embedded sentences, or prose for a model that has no label words."""
    from llm_problem.suites.named import IT_WAS, prose, sentiment

    task = prose(4, 32) if model.startswith("tiny") else sentiment(sentences, IT_WAS, (" terrible", " great"))
    return lp.Problem(model, task, lp.subspaces.LoRAXS(rank=RANK, layers=layers))


def pools(ray: bool) -> list[tuple[str, int]]:
    """(kind, workers) of each contestant."""
    kinds = ["processes", *(["ray"] if ray and importlib.util.find_spec("ray") else [])]
    return [("here", 1), ("here", 2), *((kind, k) for kind in kinds for k in (1, 2))]


def rate(problem: Any, kind: str, workers: int, points: int, rounds: int) -> dict[str, Any]:
    """Evaluations a second at the best of so many rounds of `points`; memory; the losses of the last round.

    "here" is this process with as many threads.
    """
    X = np.random.default_rng(0).standard_normal((points, problem.dimension))
    found: dict[str, Any] = {"kind": kind, "workers": workers}
    if kind == "here":
        before = torch.get_num_threads()
        torch.set_num_threads(workers)
        try:
            problem.evaluate(X[:1])
            return {**found, **_timed(lambda: problem.evaluate(X), points, rounds)}
        finally:
            torch.set_num_threads(before)
    began = time.perf_counter()
    with _pool(problem, kind, workers) as pool:
        pool.wait_built()
        found["start"] = time.perf_counter() - began
        found["memory"] = [{name: each[name] for name in ("rss", "private")} for each in pool.facts]
        return {**found, **_timed(lambda: np.array(pool.outcomes("evaluate", X)), points, rounds)}


def _pool(problem: Any, kind: str, workers: int) -> Any:
    if kind == "processes":
        return WorkerPool(problem, workers)
    from llm_problem_adapters.ray_pool import RayPool

    return RayPool(problem, workers)


def _timed(evaluate: Any, points: int, rounds: int) -> dict[str, Any]:
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        losses = evaluate()
        seconds.append(time.perf_counter() - began)
    return {"rate": points / min(seconds), "losses": losses}
