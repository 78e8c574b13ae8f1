"""Processes that evaluate one problem together: x goes out, losses come back, the model stays where it is."""

from llm_problem.workers.errors import Abandoned, GivenUp, Killed, NotBuilt, TimedOut, TooManyWorkers
from llm_problem.workers.pool import WorkerPool
from llm_problem.workers.pooled import Pooled, pool_of

__all__ = [
    "Abandoned",
    "GivenUp",
    "Killed",
    "NotBuilt",
    "Pooled",
    "TimedOut",
    "TooManyWorkers",
    "WorkerPool",
    "pool_of",
]
