"""Evaluations a second of one process, of processes, and of Ray's actors; and what they take of memory."""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch

import llm_problem as lp
from llm_problem.workers import WorkerPool
from llm_problem_adapters.blas_threads import one_blas_thread
from llm_problem_adapters.minimize import minimize

# As in docs/speed.md; a scale that is given is not calibrated, which takes long where all layers are searched.
SETTINGS: dict[str, Any] = {"rank": 4, "modules": ("q_proj", "v_proj"), "scale": 0.1}
ROUND = 2.0  # seconds of one process at most, where that is enough for FEWEST points
FEWEST = 8
ENOUGH = 10.0  # seconds, after which there is no other round


def problem_of(model: str, layers: int, sentences: int) -> Any:
    """LoRA-XS on q and v of the last layers (0: of all), with embedded sentences, or prose for a tiny model."""
    from llm_problem.models.loading import load_model
    from llm_problem.suites.named import IT_WAS, prose, sentiment

    task = prose(4, 32) if model.startswith("tiny") else sentiment(sentences, IT_WAS, (" terrible", " great"))
    with threads(1), one_blas_thread():  # on busy cores two wait for each other
        return lp.Problem(model, task, lp.subspaces.LoRAXS(layers=layers or load_model(model).layers, **SETTINGS))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of torch's meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def layers_of(model: str, wanted: list[int]) -> list[int]:
    """The numbers of last layers that the model has, 0 for all of them, each once."""
    from llm_problem.models.loading import load_model

    there = load_model(model).layers
    return list(dict.fromkeys(0 if k >= there else k for k in wanted))


def has_ray() -> bool:
    return importlib.util.find_spec("ray") is not None


@contextlib.contextmanager
def one_cluster(wanted: bool) -> Iterator[None]:
    """A cluster of Ray's on this machine for all pools that are made meanwhile."""
    if not wanted:
        yield
        return
    import ray

    from llm_problem_adapters.ray_cluster import connect

    own = connect(None, 60, 4)
    try:
        yield
    finally:
        if own:
            ray.shutdown()


def rates(problem: Any, ray: bool, points: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Evaluations a second of this process with 1 and 2 threads, and of 1 and 2 workers of each kind.

    A row has kind, workers, rate, and same: whether the losses are those of this process with one thread to the bit.
    A round has `points`, fewer where they take long; the fastest of so many rounds counts.
    """
    X = np.random.default_rng(0).standard_normal((points, problem.dimension))
    expected: Any = None
    for count in (1, 2):
        with threads(count):
            problem.evaluate(X[:1])
            if expected is None:
                began = time.perf_counter()
                problem.evaluate(X[:1])
                X = X[: int(np.clip(ROUND / (time.perf_counter() - began), FEWEST, points))]
            found, losses = _timed(problem.evaluate, X, rounds)
        expected = losses if expected is None else expected
        yield {"kind": "here", "workers": count, "rate": found, "same": np.array_equal(losses, expected)}
    for kind in ("processes", *(["ray"] if ray else [])):
        with pool_of_kind(problem, kind, 1) as pool:
            for workers in (1, 2):
                pool.resize(workers)
                pool.wait_built()
                found, losses = _timed(partial(pool.outcomes, "evaluate"), X, rounds)
                yield {"kind": kind, "workers": workers, "rate": found, "same": np.array_equal(losses, expected)}


def pool_of_kind(problem: Any, kind: str, workers: int) -> Any:
    if kind == "processes":
        return WorkerPool(problem, workers)
    from llm_problem_adapters.ray_pool import RayPool

    return RayPool(problem, workers)


def memory(problem: Any, workers: int) -> dict[str, Any]:
    """Bytes: of the largest worker resident and its own, and of all with their fork server, each shared page once."""
    with WorkerPool(problem, workers) as pool:
        pool.wait_built()
        pool.outcomes("evaluate", np.zeros((4 * workers, problem.dimension)))
        each = [psutil.Process(pid).memory_full_info() for pid in pool.pids]
        server = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
        shares = [*each, *(child.memory_full_info() for child in server)]
        return {
            "workers": workers,
            "rss": max(one.rss for one in each),
            "private": max(one.uss for one in each),
            "all": sum(getattr(one, "pss", one.uss) for one in shares),
        }


def generation_rate(problem: Any, pool: Any, population: int, generations: int) -> float:
    """Evaluations a second of the genetic algorithm, over whole generations but the first, at least 2."""
    stamps: list[tuple[int, float]] = []
    minimize(
        problem,
        "genetic-algorithm",
        population * generations + 2,
        population=population,
        workers=pool,
        callback=lambda progress: stamps.append((progress.evaluations, time.perf_counter())),
    )
    whole = [stamp for stamp in stamps if stamp[0] >= population]
    (first, began), (last, ended) = whole[0], whole[generations - 1]
    return (last - first) / (ended - began)


def _timed(evaluate: Any, X: np.ndarray, rounds: int) -> tuple[float, np.ndarray]:
    seconds, losses = [], np.zeros(0)
    for _ in range(rounds):
        began = time.perf_counter()
        losses = np.array(evaluate(X))
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > ENOUGH:
            break
    return len(losses) / min(seconds), losses
