"""The formula against workers: real ones, and a simulated cluster of up to 1,000."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_problem.workers import WorkerPool
from llm_problem.workers.base import CHUNKS
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.parallel.measuring import generation_rate, threads
from llm_problem_adapters.parallel.model import Costs, throughput
from llm_problem_adapters.parallel.simulated import SimulatedPool

DIMENSION = 128
LONG = 4.0  # seconds that a contestant takes, about
MESSAGES = 512


def tell_cost() -> float:
    """Seconds to ask for a point, tell and count it, of the genetic algorithm."""
    began = time.perf_counter()
    minimize(Free(DIMENSION), "genetic-algorithm", 2000, population=100)
    return (time.perf_counter() - began) / 2000


def message_cost(pool: Any, dimension: int = DIMENSION) -> float:
    """Seconds of the driver for each message to workers that answer at once."""
    X = np.random.default_rng(0).standard_normal((MESSAGES, dimension))
    pool.outcomes("evaluate", X)
    began = time.perf_counter()
    calls = [pool.submit("evaluate", x[None]) for x in X]
    while not all(call.done for call in calls[-pool.workers :]):
        pool.pump()
    return (time.perf_counter() - began) / MESSAGES


def real(problem: Any, workers: list[int], population: int) -> Iterator[dict[str, Any]]:
    """Rates of so many processes on this machine, beside the formula with costs of one; cores are counted in it."""
    cores, costs = os.cpu_count() or 1, None
    with WorkerPool(Free(DIMENSION), min(2, max(workers))) as pool:
        pool.wait_built()
        message, tell = message_cost(pool), tell_cost()
    with WorkerPool(problem, 1) as pool:
        for k in workers:
            pool.resize(k)
            pool.wait_built()
            if costs is None:
                costs = Costs(_evaluation(problem), message, tell)
            # A problem that only waits needs no core.
            crowd = 1.0 if isinstance(problem, Free) else max(1.0, k / cores)
            expected = throughput(Costs(costs.evaluation * crowd, message, tell), population, k)
            generations = int(np.clip(LONG * expected / population, 2, 20))
            found = generation_rate(problem, pool, population, generations)
            yield {"workers": k, "rate": found, "model": expected, "costs": vars(costs)}


def _evaluation(problem: Any) -> float:
    """Seconds of an evaluation here, with one thread."""
    X = np.random.default_rng(0).standard_normal((16, problem.dimension))
    with threads(1):
        problem.evaluate(X[:2])
        began = time.perf_counter()
        problem.evaluate(X)
        return (time.perf_counter() - began) / len(X)


def simulated_costs(evaluation: float) -> Costs:
    """Of a simulated cluster: a message as the pool sees it where evaluating takes no time."""
    with SimulatedPool(Free(DIMENSION), 4, 0.0) as pool:
        message = message_cost(pool)
    return Costs(evaluation, message, tell_cost())


def simulated_rate(evaluation: float, population: int, workers: int) -> float:
    """Evaluations a second of the genetic algorithm, over whole generations, or a part of one where they take long."""
    problem = Free(DIMENSION)
    with SimulatedPool(problem, workers, evaluation) as pool:
        each = evaluation * population / workers
        if each > 2 * LONG:
            # Full chunks for all, as a generation of this size has.
            X = np.random.default_rng(0).standard_normal(
                (CHUNKS * workers * max(1, int(LONG / evaluation / CHUNKS)), DIMENSION)
            )
            began = time.perf_counter()
            pool.outcomes("evaluate", X)
            return len(X) / (time.perf_counter() - began)
        return generation_rate(problem, pool, population, max(2, min(5, int(LONG / max(each, 1e-3)))))
