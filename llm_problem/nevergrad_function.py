"""A problem as a Nevergrad `ExperimentFunction`: an existing script replaces its function and nothing else."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from llm_problem.points import BROKEN, float_array
from llm_problem.problem import Problem
from llm_problem.seconds import seconds_of_evaluation

try:
    import nevergrad as ng
    from nevergrad.functions import ExperimentFunction
    from nevergrad.optimization.multiobjective import HypervolumePareto
except ImportError as error:
    raise ImportError("to_nevergrad needs the package nevergrad: pip install nevergrad 'numpy<2.3'") from error

REMEMBERED = 4096  # points, far more than workers that ask for losses before the first constraint is asked for


class NevergradFunction(ExperimentFunction):
    """f(x) → float (or an array (m,) for several objectives), x an array (d,), to be minimised.

    The parametrization starts at x0 = 0, the pretrained model, has the problem's sigma as its mutation and the
    problem's bounds; `full_range_sampling=False` keeps Nevergrad from sampling the whole box instead.

    A loss that is not finite is handed out as the problem's penalty, because Nevergrad takes −inf for the best; so is
    that of a point which an executor's workers gave up. Both break every constraint.
    `copy()` shares the problem and its model, a pickle carries the problem's description.

    Constraints go to Nevergrad apart from the loss:

        optimizer.minimize(f, constraint_violation=f.constraint_violations)

    or `optimizer.tell(candidate, f(x), [violation(x) for violation in f.constraint_violations])`. Nevergrad adds a
    penalty to the loss of an infeasible point, small in the first half of the budget, and never recommends one; but
    `pareto_front()` of several objectives does not look at constraints, so its points have to be looked through. With
    constraints the function remembers what it computed for the last points: asking it for the loss and for each
    violation of a point evaluates the model once.

    Several points at a time go through the model together with `minimize(f, executor=f.problem.executor(batch=16))`
    and an optimizer that has `num_workers=16`.
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

    def point(self, x: Any) -> np.ndarray:
        """x as an array (d,) of float64.

        Raises:
            ValueError: another shape, or something that is no number.
        """
        values = float_array("x", x)
        if values.shape != (self.problem.dimension,):
            raise ValueError(f"x must have shape ({self.problem.dimension},), got {values.shape}")
        return values

    def at_all(self, X: np.ndarray, found: Any = None) -> list[float | np.ndarray]:
        """f at each row of X (n, d), by one call of the model; or of what `evaluate_all` has `found` there already."""
        if found is None:
            return [_handed_out(F) for F, _ in self._values(X)]
        values = self._finite(*found)
        if self.problem.constraints:
            for x, each in zip(X, values, strict=True):
                self._recent.put(_key(x), each)
        return [_handed_out(F) for F, _ in values]

    def evaluation_function(self, *recommendations: Any) -> float:
        """The score of a benchmark: the loss of what was recommended on the *dev* split, which no optimizer sees.

        With several objectives, less the hypervolume of the recommended points' held-out objectives below
        `multiobjective_upper_bounds`, as Nevergrad has it; where none of them is below, how far they are above.

        Raises:
            ValueError: several points for one objective, or several objectives and no upper bounds.
        """
        X = np.stack([self.point(each.args[0]) for each in recommendations])
        F, _, _ = self.problem.evaluate_all(X, split="dev")
        F = np.where(np.isfinite(F), F, self.problem.penalty)  # (n, m)
        bounds = self.multiobjective_upper_bounds
        if bounds is None:
            if F.size != 1:
                raise ValueError(
                    f"the score is one number, got {F.shape[0]} points and the objectives "
                    f"{', '.join(self.problem.objectives)}: set multiobjective_upper_bounds (m,) for the hypervolume"
                )
            return float(F[0, 0])
        hypervolume = HypervolumePareto(upper_bounds=bounds)
        for each, losses in zip(recommendations, F, strict=True):
            copied = each.copy()
            copied._losses = losses
            hypervolume.add(copied)
        return -float(hypervolume.best_volume)

    def compute_pseudotime(self, input_parameter: Any, loss: Any) -> float:
        """Seconds that an evaluation of this problem takes here, measured once for a problem and the same for every x.

        Nevergrad's benchmarks simulate parallel workers by it. A cost that changed from call to call would change the
        order of the results, and with it a run that is meant to repeat.
        """
        return seconds_of_evaluation(self.problem)

    def _loss(self, x: Any) -> float | np.ndarray:
        ((F, _),) = self._values(self.point(x)[None, :])
        return _handed_out(F)

    def _violation(self, number: int, x: Any) -> float:
        ((_, G),) = self._values(self.point(x)[None, :])
        return float(G[number])

    def _values(self, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Objectives (m,) and constraints (c,) at each row of X (n, d), all finite."""
        if not self.problem.constraints:
            return self._computed(X)
        keys = [_key(x) for x in X]
        found = {key: values for key in keys if (values := self._recent.get(key)) is not None}
        missing = {key: x for key, x in zip(keys, X, strict=True) if key not in found}
        if missing:
            for key, values in zip(missing, self._computed(np.stack(list(missing.values()))), strict=True):
                found[key] = values
                self._recent.put(key, values)
        return [(found[key][0].copy(), found[key][1]) for key in keys]

    def _computed(self, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._finite(*self.problem.evaluate_all(X))

    def _finite(self, F: np.ndarray, G: np.ndarray, status: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        F = np.where(np.isfinite(F), F, self.problem.penalty)
        ok = np.asarray(status) == "ok"
        G = np.where(ok[:, None], G, BROKEN)
        return list(zip(F, G, strict=True))


def _key(x: np.ndarray) -> bytes:
    return hashlib.blake2b(x.tobytes(), digest_size=16).digest()


def _handed_out(F: np.ndarray) -> float | np.ndarray:
    return float(F[0]) if F.size == 1 else F


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
