"""A model of throughput against workers, from costs that can be measured.

A generation of p points is cut into c chunks for k workers. An evaluation takes e seconds; for each chunk the driver
spends m seconds on sending, waiting and reading, which it does for one chunk at a time; telling, asking and recording
cost t seconds a point, in which no worker works. A generation then takes

    max(e · s · ⌈c / k⌉, m · c) + m + t · p,    s = ⌈p / c⌉ points a chunk

seconds. The first argument is the workers' time, the second the driver's: more workers help until they are equal, at
about k = e · s / m, or until there is a worker for every chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_problem.workers.base import CHUNKS


@dataclass(frozen=True)
class Costs:
    """Seconds: of an evaluation, of a message to a worker and back, and of telling a point."""

    evaluation: float
    message: float
    tell: float


def chunks(population: int, workers: int) -> int:
    """How many the pool makes of a generation."""
    return math.ceil(population / max(1, math.ceil(population / (CHUNKS * workers))))


def throughput(costs: Costs, population: int, workers: int) -> float:
    """Evaluations a second."""
    c = chunks(population, workers)
    s = math.ceil(population / c)
    seconds = max(costs.evaluation * s * math.ceil(c / workers), costs.message * c) + costs.message
    return population / (seconds + costs.tell * population)
