"""A problem as a pymoo `Problem`: an existing script replaces its problem and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from llm_problem.points import BROKEN
from llm_problem.problem import Problem as LLMProblem
from llm_problem.workers import Pooled, pool_of

try:
    from pymoo.core.problem import Problem
    from pymoo.core.sampling import Sampling
except ImportError as error:
    raise ImportError("to_pymoo needs the package pymoo: pip install pymoo") from error


class PymooProblem(Problem):
    """A vectorised pymoo problem: `_evaluate` takes a whole population at once, which is the fast way.

    The problem's constraints are pymoo's inequality constraints (`G`, feasible where ≤ 0), so that its algorithms and
    results deal with them as with any others. A loss that is not finite is handed out as the problem's penalty, because
    several of pymoo's algorithms hang on NaN or report it as the optimum; such a point breaks every constraint, and so
    does one that its workers gave up. Copies (`save_history=True` makes one a generation) share the model.

    Args:
        problem: what is evaluated.
        elementwise: let pymoo call it for each point by itself, through `elementwise_runner`.
        elementwise_runner: pymoo's `StarmapParallelization`, `JoblibParallelization` and their like; None is its loop.
            Naming one is `elementwise=True`. Processes get the problem's description with each point and build it once.
        start_at_x0: whether the pretrained model is the first point of `sampling`, and of our optimizers (`AskTell`).
        workers: processes that share each generation, in the same bits; or a `WorkerPool` of the problem, for whoever
            wants to end them in time. None evaluates here.

    Attributes:
        sampling: N(x0, sigma²) inside the bounds, for `DE(sampling=problem.sampling)`; pymoo's own default is uniform
            over the box, which starts much wider.
    """

    def __init__(
        self,
        problem: LLMProblem,
        *,
        elementwise: bool | None = None,
        elementwise_runner: Any = None,
        start_at_x0: bool = True,
        workers: Any = None,
    ) -> None:
        if workers is not None and (elementwise or elementwise_runner is not None):
            raise ValueError("workers take whole generations: leave elementwise and its runner out")
        if elementwise is False and elementwise_runner is not None:
            raise ValueError("an elementwise_runner runs elementwise only: leave elementwise=False out")
        lower, upper = problem.bounds
        super().__init__(
            n_var=problem.dimension,
            n_obj=len(problem.objectives),
            n_ieq_constr=len(problem.constraints),
            xl=lower,
            xu=upper,
            vtype=float,
            elementwise=bool(elementwise) or elementwise_runner is not None,
            **({} if elementwise_runner is None else {"elementwise_runner": elementwise_runner}),
        )
        self.problem, self.start_at_x0 = problem, start_at_x0
        self._evaluated = problem if workers is None else Pooled(pool_of(problem, workers))

    @property
    def sampling(self) -> NormalSampling:
        return NormalSampling(self.problem.x0, self.problem.sigma, start_at_x0=self.start_at_x0)

    def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        F, G, status = self._evaluated.evaluate_all(np.atleast_2d(X))
        found = {"F": np.where(np.isfinite(F), F, self.problem.penalty)}
        if G.shape[1]:
            found["G"] = np.where((status == "ok")[:, None], G, BROKEN)
        out.update({name: values[0] if X.ndim == 1 else values for name, values in found.items()})  # X: (n, d) or (d,)

    def name(self) -> str:
        return self.problem.name

    def __deepcopy__(self, memo: dict) -> PymooProblem:
        return copy.copy(self)  # a runner's pool or module cannot be copied, and nothing in it is changed in place


class NormalSampling(Sampling):
    """Initial points N(x0, sigma²), clipped to the bounds; with `start_at_x0` the first is x0 itself."""

    def __init__(self, x0: np.ndarray, sigma: float, *, start_at_x0: bool = True) -> None:
        super().__init__()
        self.x0, self.sigma, self.start_at_x0 = x0, sigma, start_at_x0

    def _do(self, problem: Problem, n_samples: int, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        rng = np.random.default_rng(random_state)
        X = self.x0 + self.sigma * rng.standard_normal((n_samples, self.x0.size))  # (n, d) ~ N(x0, sigma²)
        if self.start_at_x0:
            X[0] = self.x0
        return np.clip(X, problem.xl, problem.xu)
