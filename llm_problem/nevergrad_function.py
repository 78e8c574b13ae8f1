"""A problem as a Nevergrad `ExperimentFunction`: an existing script replaces its function and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem.problem import Problem

try:
    import nevergrad as ng
    from nevergrad.functions import ExperimentFunction
except ImportError as error:
    raise ImportError("to_nevergrad needs the package nevergrad: pip install nevergrad 'numpy<2.3'") from error


class NevergradFunction(ExperimentFunction):
    """f(x) → float (or an array (m,) for several objectives), x an array (d,), to be minimised.

    The parametrization starts at x0 = 0, the pretrained model, has the problem's sigma as its mutation and the
    problem's bounds; `full_range_sampling=False` keeps Nevergrad from sampling the whole box instead.

    A loss that is not finite is handed out as the problem's penalty, because Nevergrad takes −inf for the best.
    `copy()` shares the problem and its model, a pickle carries the problem's description.
    """

    def __init__(self, problem: Problem) -> None:
        lower, upper = problem.bounds
        parametrization = ng.p.Array(init=problem.x0).set_mutation(sigma=problem.sigma)
        parametrization.set_bounds(lower, upper, full_range_sampling=False)
        parametrization.set_name(f"d{problem.dimension}")
        super().__init__(self._loss, parametrization)
        self.problem = problem
        # Nevergrad tells functions apart by these: without them, two problems of one dimension would be equal.
        self.add_descriptors(problem=problem.name, fingerprint=problem.fingerprint[:16])

    def _loss(self, x: Any) -> float | np.ndarray:
        values = np.asarray(x, dtype=np.float64)
        if values.shape != (self.problem.dimension,):
            raise ValueError(f"x must have shape ({self.problem.dimension},), got {values.shape}")
        F, _, _ = self.problem.evaluate_all(values[None, :])
        F = np.where(np.isfinite(F), F, self.problem.penalty)
        return float(F[0, 0]) if F.shape[1] == 1 else F[0]
