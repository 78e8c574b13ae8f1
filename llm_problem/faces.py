"""What other libraries take a problem as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from llm_problem.executor import BatchExecutor

if TYPE_CHECKING:
    from llm_problem.asynchronous import AsynchronousExecutor
    from llm_problem.ioh_problem import IOHProblem
    from llm_problem.nevergrad_function import NevergradFunction
    from llm_problem.optuna_objective import OptunaObjective
    from llm_problem.problem import Problem
    from llm_problem.pymoo_problem import PymooProblem


class Faces:
    """The part of `Problem` that wraps it for others; each library is imported when it is asked for.

    Raises:
        ImportError: that library is not installed; the message is the pip line.
    """

    def to_nevergrad(self, objectives: Sequence[str] | None = None) -> NevergradFunction:
        """As a Nevergrad `ExperimentFunction`; `objectives` replaces the problem's own."""
        from llm_problem.nevergrad_function import NevergradFunction

        return NevergradFunction(self._facing(objectives))

    def to_pymoo(self, objectives: Sequence[str] | None = None, **options: Any) -> PymooProblem:
        """As a pymoo `Problem`; `objectives` replaces the problem's own, options are `PymooProblem`'s."""
        from llm_problem.pymoo_problem import PymooProblem

        return PymooProblem(self._facing(objectives), **options)

    def to_ioh(self, objectives: Sequence[str] | None = None, **options: Any) -> IOHProblem:
        """As a problem of IOHexperimenter; `objectives` (one) replaces the problem's own, options are `IOHProblem`'s:
        `instance` and `name`."""
        from llm_problem.ioh_problem import IOHProblem

        return IOHProblem(self._facing(objectives), **options)

    def to_optuna(self, objectives: Sequence[str] | None = None, **options: Any) -> OptunaObjective:
        """As an Optuna objective with its distributions; `objectives` replaces the problem's own, options are
        `OptunaObjective`'s: `reach`."""
        from llm_problem.optuna_objective import OptunaObjective

        return OptunaObjective(self._facing(objectives), **options)

    def executor(
        self, batch: int = 16, workers: Any = None, asynchronous: bool = False
    ) -> BatchExecutor | AsynchronousExecutor:
        """For Nevergrad's `minimize(f, executor=…)`: up to `batch` points by one call of the model.

        Args:
            batch: decides the run where the optimizer has as many `num_workers`; how many `workers` there are does not.
            workers: processes that share the points, ended by `shutdown`; or a pool of this problem's. None: here.
            asynchronous: hand out each loss as it comes, in whatever order: no worker waits, and no run repeats. It
                needs workers, and `batch` is not used.
        """
        problem = cast("Problem", self)
        if workers is None:
            if asynchronous:
                raise ValueError("asynchronous evaluation needs workers: executor(workers=2, asynchronous=True)")
            return BatchExecutor(problem, batch)
        from llm_problem.asynchronous import AsynchronousExecutor
        from llm_problem.workers import pool_of

        pool = pool_of(problem, workers)
        own = pool is not workers
        return AsynchronousExecutor(problem, pool, own) if asynchronous else BatchExecutor(problem, batch, pool, own)

    def _facing(self, objectives: Sequence[str] | None) -> Problem:
        return cast("Problem", self)._with_objectives(objectives)
