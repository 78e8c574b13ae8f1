"""A problem as a Nevergrad `ExperimentFunction`: an existing script replaces its function and nothing else."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from llm_problem.points import BROKEN
from llm_problem.problem import Problem

try:
    import nevergrad as ng
    from nevergrad.functions import ExperimentFunction
except ImportError as error:
    raise ImportError("to_nevergrad needs the package nevergrad: pip install nevergrad 'numpy<2.3'") from error

REMEMBERED = 4096  # points, far more than workers that ask for losses before the first constraint is asked for


class NevergradFunction(ExperimentFunction):
    """f(x) → float (or an array (m,) for several objectives), x an array (d,), to be minimised.

    The parametrization starts at x0 = 0, the pretrained model, has the problem's sigma as its mutation and the
    problem's bounds; `full_range_sampling=False` keeps Nevergrad from sampling the whole box instead.

    A loss that is not finite is handed out as the problem's penalty, because Nevergrad takes −inf for the best.
    `copy()` shares the problem and its model, a pickle carries the problem's description.

    Constraints go to Nevergrad apart from the loss:

        optimizer.minimize(f, constraint_violation=f.constraint_violations)

    or `optimizer.tell(candidate, f(x), [violation(x) for violation in f.constraint_violations])`. Nevergrad adds a
    penalty to the loss of an infeasible point, small in the first half of the budget, and never recommends one; but
    `pareto_front()` of several objectives does not look at constraints, so its points have to be looked through. With
    constraints the function remembers what it computed for the last points: asking it for the loss and for each
    violation of a point evaluates the model once.
    """

    def __init__(self, problem: Problem) -> None:
        lower, upper = problem.bounds
        parametrization = ng.p.Array(init=problem.x0).set_mutation(sigma=problem.sigma)
        parametrization.set_bounds(lower, upper, full_range_sampling=False)
        parametrization.set_name(f"d{problem.dimension}")
        super().__init__(self._loss, parametrization)
        self.problem = problem
        self._recent = _Recent()
        # Nevergrad tells functions apart by these: without them, two problems of one dimension would be equal.
        self.add_descriptors(problem=problem.name, fingerprint=problem.fingerprint[:16])

    @property
    def constraint_violations(self) -> list[Callable[[Any], float]]:
        """For each of the problem's constraints a function of x (d,): the quantity less its limit, bad where > 0."""
        return [partial(self._violation, number) for number in range(len(self.problem.constraints))]

    def _loss(self, x: Any) -> float | np.ndarray:
        F, _ = self._values(x)
        return float(F[0]) if F.size == 1 else F

    def _violation(self, number: int, x: Any) -> float:
        _, G = self._values(x)
        return float(G[number])

    def _values(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Objectives (m,) and constraints (c,) at x, all finite."""
        values = np.asarray(x, dtype=np.float64)
        if values.shape != (self.problem.dimension,):
            raise ValueError(f"x must have shape ({self.problem.dimension},), got {values.shape}")
        constrained = bool(self.problem.constraints)
        key = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
        if constrained and (found := self._recent.get(key)) is not None:
            return found[0].copy(), found[1]
        F, G, status = self.problem.evaluate_all(values[None, :])
        F = np.where(np.isfinite(F), F, self.problem.penalty)[0]
        G = G[0] if status[0] == "ok" else np.full(G.shape[1], BROKEN)
        if constrained:
            self._recent.put(key, (F.copy(), G))
        return F, G


class _Recent:
    """The values of the last points; several threads may ask, and a copy or a pickle starts empty."""

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> tuple[np.ndarray, np.ndarray] | None:
        with self._lock:
            return self._values.get(key)

    def put(self, key: bytes, values: tuple[np.ndarray, np.ndarray]) -> None:
        with self._lock:
            self._values[key] = values
            if len(self._values) > REMEMBERED:
                self._values.popitem(last=False)

    def __reduce__(self) -> tuple:
        return _Recent, ()
