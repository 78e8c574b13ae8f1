"""An executor that evaluates together what was submitted together.

    optimizer = ng.optimizers.DE(f.parametrization, budget=320, num_workers=16)
    optimizer.minimize(f, executor=f.problem.executor(batch=16))    # 20 calls of the model

Nevergrad calls its function for one point at a time, but asks for `num_workers` points and submits all of them before
it looks at a result. What is submitted here waits in a queue until the first `done()` or `result()`, or until `batch`
points wait, and is then evaluated as one population.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem.subspaces.base import positive_int
from llm_problem.workers.rows import as_arrays, as_row

if TYPE_CHECKING:
    from llm_problem.nevergrad_function import NevergradFunction
    from llm_problem.problem import Problem


class BatchExecutor:
    """Takes `submit(f, x)` as `concurrent.futures` does and evaluates in the thread that asks for a result.

    A population gives the same bits as its points one by one, so that a run is the one without an executor and with
    the same `num_workers`. Only functions of one problem are taken, by `f.problem`: a function wrapped around them
    would have to be called for each point, which gains nothing and is better seen at once. Several threads may submit
    and ask. An exception of an evaluation comes out of the `result()` of each of its points; of a point that its
    workers gave up (`GivenUp`) the penalty does, as of one whose loss is not finite.

    Args:
        problem: whose functions are taken, `problem.to_nevergrad()` and its copies.
        batch: points that are evaluated together at most, at least 1.
        pool: of workers, who share the points of a batch; None evaluates here.
        own: whether `shutdown` ends it.

    Raises:
        ValueError: `batch` is no count.
    """

    def __init__(self, problem: Problem, batch: int = 16, pool: Any = None, own: bool = False) -> None:
        self.problem, self.batch = problem, positive_int("batch", batch)
        self._pool, self._own = pool, own
        self._queue: list[Job] = []
        self._lock = threading.RLock()  # held while points are evaluated: whoever asks then waits for the result
        self._shut_down = False

    def submit(self, f: Any, /, *args: Any, **kwargs: Any) -> Job:
        """Queue f(x); the queue is evaluated when it is `batch` long.

        Raises:
            ValueError: not a function of this executor's problem, or arguments other than one point.
            RuntimeError: after `shutdown`.
        """
        require_point_of(self.problem, f, args, kwargs)
        with self._lock:
            if self._shut_down:
                raise RuntimeError("this executor was shut down: take a new one from problem.executor()")
            job = Job(f, args[0], self)
            self._queue.append(job)
            if len(self._queue) >= self.batch:
                self.flush()
        return job

    def flush(self) -> None:
        """Evaluate what waits, by one call of the model for each function that something waits for."""
        with self._lock:
            while self._queue:
                f = self._queue[0]._f
                jobs = [job for job in self._queue if job._f is f]
                _evaluate(f, jobs, self._pool)
                self._queue = [job for job in self._queue if job._f is not f]  # after an interruption they still wait
            if self._shut_down and self._own:
                self._pool.close()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. What waits is evaluated now, or when it is asked for (wait=False), or is cancelled; as it
        is where evaluating it now raises and workers of the executor's own, which end then, would be needed for it."""
        with self._lock:
            self._shut_down = True
            if cancel_futures:
                self._cancel(CancelledError())
            if wait or not self._queue:
                try:
                    self.flush()
                except BaseException as error:
                    if self._own:
                        self._cancel(CancelledError(f"not evaluated, because of {type(error).__name__}: {error}"))
                        self._pool.close()
                    raise

    def _cancel(self, error: CancelledError) -> None:
        for job in self._queue:
            job._fail(error)
        self._queue = []

    def __enter__(self) -> BatchExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)  # after Ctrl-C nobody wants what waits to be evaluated first

    def __repr__(self) -> str:
        return f"<BatchExecutor of {self.problem!r}, batch {self.batch}>"


def require_point_of(problem: Problem, f: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Refuse what is no call of a function of the problem's with one point."""
    if getattr(f, "problem", None) is not problem or not hasattr(f, "at_all"):
        raise ValueError(
            f"this executor is for functions of {problem!r}, as its to_nevergrad() makes them, got {f!r}: "
            "give minimize the function itself, and take the executor from f.problem.executor()"
        )
    if len(args) != 1 or kwargs:
        raise ValueError(f"{f!r} takes one point x (d,), got {len(args)} arguments and the keywords {list(kwargs)}")


class Job:
    """What `submit` returns. A pickled one that was not evaluated yet is evaluated by itself where it is unpickled."""

    def __init__(self, f: NevergradFunction, x: Any, executor: BatchExecutor) -> None:
        self._f, self._x = f, x
        self._executor: BatchExecutor | None = executor
        self._finished = False
        self._value: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """True: asking evaluates."""
        self._settle()
        return True

    def result(self, timeout: float | None = None) -> Any:
        """f(x). A time limit is taken and not used: the evaluation runs in this very call.

        Raises:
            Exception: what the evaluation raised.
            CancelledError: the executor was shut down with `cancel_futures`.
        """
        self._settle()
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the evaluation raised, None for nothing."""
        self._settle()
        return self._error

    def _settle(self) -> None:
        if not self._finished:
            if self._executor is None:
                _evaluate(self._f, [self])
            else:
                self._executor.flush()

    def _finish(self, value: Any) -> None:
        self._value, self._finished, self._executor = value, True, None

    def _fail(self, error: BaseException) -> None:
        self._error, self._finished, self._executor = error, True, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_executor": None}


def _evaluate(f: NevergradFunction, jobs: list[Job], pool: Any = None) -> None:
    """One call of the model for all points that are points; each of the others has an error of its own."""
    points, taken = [], []
    for job in jobs:
        try:
            points.append(f.point(job._x))
            taken.append(job)
        except ValueError as error:
            job._fail(error)
    if not taken:
        return
    if pool is not None:
        _by_workers(f, taken, np.stack(points), pool)
        return
    try:
        values = f.at_all(np.stack(points))
    except Exception as error:
        for job in taken:
            job._fail(error)
        return
    for job, value in zip(taken, values, strict=True):
        job._finish(value)


def _by_workers(f: NevergradFunction, jobs: list[Job], X: np.ndarray, pool: Any) -> None:
    """What a pool finds at X (n, d), a row for each job; an error is that of its own point."""
    for job, x, outcome in zip(jobs, X, pool.outcomes("evaluate_all", X), strict=True):
        try:
            job._finish(value_of(f, x, outcome))
        except Exception as error:
            job._fail(error)


def value_of(f: NevergradFunction, x: np.ndarray, outcome: Any) -> Any:
    """f(x), x (d,), of what a pool says of `evaluate_all` there.

    Raises:
        Exception: what the evaluation raised.
    """
    (value,) = f.at_all(x[None], as_arrays([as_row(f.problem, "evaluate_all", outcome)]))
    return value
