"""Optimizers of this package as pymoo algorithms.

pymoo.optimize.minimize(problem, AskTell("genetic-algorithm", population=20), ("n_eval", 500), seed=1)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem.pymoo_problem import NormalSampling
from llm_problem_adapters.base import HORIZON, BaseOptimizer
from llm_problem_adapters.registry import configure

try:
    from pymoo.core.algorithm import Algorithm
    from pymoo.core.population import Population
    from pymoo.termination.max_eval import MaximumFunctionCallTermination
    from pymoo.termination.max_gen import MaximumGenerationTermination
    from pymoo.util.display.single import SingleObjectiveOutput
    from pymoo.util.optimum import filter_optimum
except ImportError as error:
    raise ImportError("pymoo is needed for this: pip install pymoo") from error


class AskTell(Algorithm):
    """An optimizer of this package, run by pymoo on one objective.

    On a `PymooProblem` it starts at the pretrained model with the problem's sigma; on any other problem in the middle
    of the box with a sixth of its width, at zero with 1 where there is no box. With the termination `("n_eval", N)` it
    takes N evaluations exactly, a last generation being cut short. With a seed, the trajectory is that of this
    package's `minimize` with the same seed and budget.

    Args:
        optimizer: a name as for `make_optimizer`, or an optimizer that is configured and not set up.
        x0: start, a number or (n_var,); None as above.
        sigma: standard deviation of a typical step, a number or (n_var,); None as above.
        horizon: evaluations that the algorithm plans for; None takes N of `("n_eval", N)`, the generations of
            `("n_gen", N)` times the optimizer's population, or `HORIZON`.
        batch_size: points proposed before any is told, for optimizers without generations of their own.
        start_at_x0: whether the start is evaluation one, as for `make_optimizer`; None is as `PymooProblem` says, and
            True on any other problem.
        **options: of the optimizer that is named.

    Raises:
        TypeError, ValueError: as for `make_optimizer`; from `setup`, a problem of several objectives or with equality
            constraints.
    """

    def __init__(
        self,
        optimizer: str | BaseOptimizer,
        *,
        x0: Any = None,
        sigma: Any = None,
        horizon: int | None = None,
        batch_size: int | None = None,
        start_at_x0: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(output=SingleObjectiveOutput())
        self.opt: Any
        if isinstance(optimizer, str):
            optimizer = configure(optimizer, **options)
        elif options:
            raise TypeError(f"options are for an optimizer by name, got {', '.join(options)} beside an optimizer")
        self.optimizer = optimizer
        self.start, self.step, self.horizon, self.batch_size = x0, sigma, horizon, batch_size
        self.start_at_x0 = start_at_x0

    def _setup(self, problem: Any, **kwargs: Any) -> None:
        if problem.n_obj != 1 or problem.n_eq_constr:
            raise ValueError(
                f"{self.optimizer.name} is for one objective without equality constraints, this problem has "
                f"{problem.n_obj} and {problem.n_eq_constr}"
            )
        sampling = getattr(problem, "sampling", None)
        theirs = sampling.start_at_x0 if isinstance(sampling, NormalSampling) else True
        x0, sigma = self._start_of(problem, sampling)
        seed = self.seed if self.seed is not None else int(self.random_state.integers(2**32))
        self.optimizer.setup(
            dimension=problem.n_var,
            x0=x0,
            bounds=None if problem.xl is None else (problem.xl, problem.xu),
            sigma=sigma,
            horizon=self._planned(),
            batch_size=self.batch_size,
            seed=seed,
            start_at_x0=theirs if self.start_at_x0 is None else self.start_at_x0,
        )

    def _start_of(self, problem: Any, sampling: Any) -> tuple[Any, Any]:
        x0: Any = 0.0
        sigma: Any = 1.0
        if isinstance(sampling, NormalSampling):
            x0, sigma = sampling.x0, sampling.sigma
        elif problem.xl is not None and problem.xu is not None:
            x0, sigma = (problem.xl + problem.xu) / 2, (problem.xu - problem.xl) / 6
        return x0 if self.start is None else self.start, sigma if self.step is None else self.step

    def _planned(self) -> int:
        if self.horizon is not None:
            return self.horizon
        if isinstance(self.termination, MaximumFunctionCallTermination):
            return int(self.termination.n_max_evals)
        if isinstance(self.termination, MaximumGenerationTermination) and np.isfinite(self.termination.n_max_gen):
            return int(self.termination.n_max_gen * getattr(self.optimizer, "population", 1))
        return HORIZON

    def _initialize_infill(self) -> Any:
        return self._infill()

    def _initialize_advance(self, infills: Any = None, **kwargs: Any) -> None:
        self._advance(infills)

    def _infill(self) -> Any:
        if self.optimizer.stop_reason is not None:
            return None
        most = 10**9
        if isinstance(self.termination, MaximumFunctionCallTermination):
            most = max(1, int(self.termination.n_max_evals) - self.evaluator.n_eval)
        return Population.new("X", self.optimizer.ask(most))

    def _advance(self, infills: Any = None, **kwargs: Any) -> None:
        if infills is None:  # the optimizer has come to its own end
            self.termination.force_termination = True
            return
        G = infills.get("G") if self.problem.n_ieq_constr else None
        self.optimizer.tell(infills.get("X").astype(float), infills.get("F")[:, 0], G)
        self.pop = infills
        if self.optimizer.stop_reason is not None:
            self.termination.force_termination = True

    def _set_optimum(self) -> None:
        """The best point seen, which need not be in the last generation."""
        known = self.pop if self.opt is None else Population.merge(self.opt, self.pop)
        self.opt = filter_optimum(known, least_infeasible=True)
