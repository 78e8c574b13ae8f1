"""An executor that hands out results as they come: no worker waits for another, and no run repeats.

    executor = f.problem.executor(workers=4, asynchronous=True)
    ng.optimizers.TwoPointsDE(f.parametrization, budget=1000, num_workers=8).minimize(f, executor=executor)

An optimizer that keeps its population steady takes each loss when it is there and asks for another point. What it is
told first depends on how long evaluations take, and so does everything after that. `BatchExecutor` is the form that
repeats: a fixed number of points is told together, however many workers share them.
"""

from __future__ import annotations

from concurrent.futures import TimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any

from llm_problem.executor import require_point_of, value_of
from llm_problem.workers.calls import Call
from llm_problem.workers.errors import GivenUp

if TYPE_CHECKING:
    from llm_problem.problem import Problem


class AsynchronousExecutor:
    """Takes `submit(f, x)` as `concurrent.futures` does, with a pool of workers behind it. Not repeatable.

    Args:
        problem: whose functions are taken.
        pool: a `WorkerPool` of that problem.
        own: whether `shutdown` ends it.
    """

    repeatable = False

    def __init__(self, problem: Problem, pool: Any, own: bool = True) -> None:
        self.problem, self._pool, self._own = problem, pool, own
        self._calls: set[Call] = set()  # without an outcome, as far as it is known
        self._shut_down = False

    def submit(self, f: Any, /, *args: Any, **kwargs: Any) -> AsynchronousJob:
        """Send f(x) to a worker, or queue it until there is one.

        Raises:
            ValueError: not a function of this executor's problem, or arguments other than one point.
            RuntimeError: after `shutdown`.
        """
        require_point_of(self.problem, f, args, kwargs)
        if self._shut_down:
            raise RuntimeError("this executor was shut down: take a new one from problem.executor()")
        x = f.point(args[0]).copy()
        call = self._pool.submit("evaluate_all", x[None])
        self._calls.add(call)
        return AsynchronousJob(f, x, call, self)

    def pump(self, seconds: float | None = None) -> None:
        """Have workers go on until something came, or for so many seconds."""
        try:
            self._pool.pump(seconds)
        finally:
            self._tidy()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and end the executor's own workers.

        What waits or is being evaluated is waited for; or goes on when it is asked for (wait=False); or is cancelled.
        """
        self._shut_down = True
        try:
            if cancel_futures:
                for call in self._calls:
                    self._pool.cancel(call)
            self._tidy()
            while wait and self._calls:
                self.pump()
        except BaseException:
            if self._own:
                self._pool.close()
            raise

    def _tidy(self) -> None:
        self._calls = {call for call in self._calls if not call.done}
        if self._shut_down and self._own and not self._calls:
            self._pool.close()

    def __enter__(self) -> AsynchronousExecutor:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def __repr__(self) -> str:
        return f"<AsynchronousExecutor of {self.problem!r}, not repeatable>"


class AsynchronousJob:
    """What `submit` returns."""

    def __init__(self, f: Any, x: Any, call: Call, executor: AsynchronousExecutor) -> None:
        self._f, self._x, self._call, self._executor = f, x, call, executor

    def done(self) -> bool:
        """Whether it was evaluated; returns at once."""
        if not self._call.done:
            self._executor.pump(0.0)
        return bool(self._call.done)

    def result(self, timeout: float | None = None) -> Any:
        """f(x), waiting for so many seconds at most.

        Raises:
            TimeoutError: it is not there yet.
            Abandoned: it was interrupted or cancelled, or its workers were ended.
            Exception: what the evaluation raised.
        """
        return value_of(self._f, self._x, self._outcome(timeout))

    def exception(self, timeout: float | None = None) -> Exception | None:
        """What the evaluation raised, None for nothing."""
        outcome = self._outcome(timeout)
        return outcome if isinstance(outcome, Exception) and not isinstance(outcome, GivenUp) else None

    def _outcome(self, timeout: float | None) -> Any:
        end = None if timeout is None else monotonic() + timeout
        while not self._call.done:
            left = None if end is None else end - monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"not evaluated within {timeout:g} seconds")
            self._executor.pump(left)
        return self._call.outcomes[0]
