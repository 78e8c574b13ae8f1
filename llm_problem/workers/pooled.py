"""A problem whose values come from a pool of workers; everything else is its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem.workers.rows import as_arrays, as_row


def pool_of(problem: Any, workers: Any) -> Any:
    """The pool that `workers` is, or one of so many processes.

    Raises:
        ValueError: no count, or a pool of another problem.
        RuntimeError: a closed pool.
    """
    if isinstance(workers, type):
        raise ValueError(f"workers must be a number or a pool, as {workers.__name__}(problem, 2) is, got the class")
    if not hasattr(workers, "outcomes"):
        from llm_problem.workers.pool import WorkerPool

        return WorkerPool(problem, workers)
    if workers.problem is not problem:
        raise ValueError(f"these workers evaluate {workers.problem!r}, not {problem!r}: make a pool of the problem")
    if getattr(workers, "closed", False):
        raise RuntimeError("this pool of workers is closed: make another one")
    return workers


class Pooled:
    """As the problem, in the same bits, but evaluated by a pool.

    A point that cost its workers their lives has no loss (NaN) and the status "failed", one that took too long the
    status "timed out".

    Args:
        pool: a `WorkerPool`, or another with its `problem` and `outcomes`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        if name == "_pool":  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self._pool.problem, name)

    def outcomes(self, method: str, X: np.ndarray, **options: Any) -> list[Any]:
        """For each row of X (n, d) what the method says of it, or the exception that it ended with."""
        return self._pool.outcomes(method, X, **options)

    def evaluate(self, X: Any, sample: int | None = None) -> np.ndarray:
        """As `Problem.evaluate`: (n,)."""
        options = {} if sample is None else {"sample": sample}
        return np.array(self._values("evaluate", X, options), dtype=np.float64)

    def evaluate_all(self, X: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Problem.evaluate_all`: F (n, m), G (n, c), status (n,)."""
        return self._arrays("evaluate_all", X, options)

    def race(self, X: Any, against: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        """As `Problem.race`: losses (n,), status (n,)."""
        return self._arrays("race", X, {"against": against, **options})

    def value_and_grad(self, x: Any) -> tuple[float, np.ndarray]:
        """As `Problem.value_and_grad`: the loss and its gradient (d,).

        Raises:
            TimedOut, Killed: there is none.
        """
        (found,) = self.outcomes("value_and_grad", np.asarray(x, dtype=np.float64)[None])
        if isinstance(found, Exception):
            raise found
        return found

    def _values(self, method: str, X: Any, options: dict[str, Any]) -> list[Any]:
        found = self.outcomes(method, np.atleast_2d(np.asarray(X, dtype=np.float64)), **options)
        return [as_row(self._pool.problem, method, outcome) for outcome in found]

    def _arrays(self, method: str, X: Any, options: dict[str, Any]) -> Any:
        if not len(X):
            return getattr(self._pool.problem, method)(X, **options)
        return as_arrays(self._values(method, X, options))
