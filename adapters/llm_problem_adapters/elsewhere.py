"""Where a run's points are evaluated: here, in one process apart, or by workers."""

from __future__ import annotations

from typing import Any

from llm_problem.workers import Pooled, WorkerPool, pool_of
from llm_problem_adapters.limits import Apart, Limits


class _Own(Pooled):
    """By a pool of this run's own, which ends with it."""

    def close(self) -> None:
        self._pool.close()


class _Lent(Pooled):
    """By a pool that outlives the run."""

    def close(self) -> None:
        """Nothing is ended."""


def evaluated_elsewhere(problem: Any, limits: Limits, workers: Any) -> Apart | Pooled | None:
    """The problem as limits and workers have it evaluated, to be closed after the run; None: here.

    Args:
        problem: as `minimize` takes it.
        limits: of the run.
        workers: None, a count, or a pool with its `problem` and `outcomes`.

    Raises:
        ValueError: no count, a pool of another problem, or limits of an evaluation beside a pool.
        RuntimeError: a closed pool.
        NotBuilt: workers cannot build the problem, or so many do not fit.
    """
    if workers is None:
        return Apart(problem, limits) if limits.needs_process else None
    if not hasattr(workers, "outcomes") and not isinstance(workers, type):
        return _Own(WorkerPool(problem, workers, evaluation_seconds=limits.evaluation_seconds, memory=limits.memory))
    pool = pool_of(problem, workers)
    if limits.of_one:
        raise ValueError("a pool has its own limits of one evaluation: give them where it is made")
    return _Lent(pool)
