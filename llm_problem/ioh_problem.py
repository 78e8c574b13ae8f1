"""A problem for IOHexperimenter: loggers attach to it, and IOH's loops run on it unchanged."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from llm_problem.function_ids import function_id
from llm_problem.points import BROKEN, float_array
from llm_problem.problem import Problem

try:
    import ioh
except ImportError as error:
    raise ImportError("to_ioh needs the package ioh: pip install ioh") from error

LONGEST = 100  # characters of a name, which becomes a part of the names of files


class IOHProblem(ioh.problem.RealSingleObjective):
    """f(x) → float for x (d,), or (n,) float64 for X (n, d), by one call of the model; to be minimised.

    A loss that is not finite is handed out, and logged, as the problem's penalty. ioh itself would return NaN for a
    point that is not finite without counting it, so that a loop over `state.evaluations` might never end: here such a
    point counts, has the penalty, and is logged with 0 in place of NaN and the largest number in place of infinity.

    The optimum is unknown: `optimum.y` is −inf and `optimum.x` NaN. Targets of ioh are distances to the optimum's loss,
    so that neither `state.optimum_found` nor `state.final_target_found` comes true: stop by `state.evaluations`, or by
    `state.current_best.y`.

    Constraints are ioh's: the violation of each, times the problem's penalty as its weight, is added to what is
    returned (ioh's SOFT), which puts what is infeasible behind what is feasible. `constraints[0].weight` and its
    `enforced` change that; raw_y in the logs has no such addition. The bounds are known to ioh and not enforced.

    ioh's registry gets the name and no more: the model is let go of with the last reference to this object, while a
    function given to `ioh.wrap_problem` is kept for good. Copies and pickles share the model, and carry the problem's
    description; they start without evaluations and loggers.

    Args:
        problem: what is evaluated, of one objective.
        instance: the number that ioh's files show; None is the problem's own.
        name: the function's name in ioh's files, of letters, digits, ".", "_" and "-". None is the registered id; or,
            where the problem has none, a summary with eight digits of its fingerprint, so that two problems never
            share a name.

    Attributes:
        problem: the one that was given.

    Raises:
        ValueError: several objectives, a name of another form, an instance that is no non-negative integer.
    """

    def __init__(self, problem: Problem, *, instance: int | None = None, name: str | None = None) -> None:
        if len(problem.objectives) != 1:
            raise ValueError(
                f"ioh takes one objective, and this problem has {', '.join(problem.objectives)}: choose one with "
                f"to_ioh(objectives=({problem.objectives[0]!r},))"
            )
        instance = problem.spec.instance if instance is None else instance
        if isinstance(instance, bool) or not isinstance(instance, (int, np.integer)) or instance < 0:
            raise ValueError(f"instance must be a non-negative integer, got {instance!r}")
        name = file_name(problem) if name is None else name
        if not isinstance(name, str) or not re.fullmatch(rf"[\w.-]{{1,{LONGEST}}}", name, re.ASCII):
            raise ValueError(
                f"name must be of 1 to {LONGEST} letters, digits, '.', '_' and '-', since files are called by it, "
                f"got {name!r}"
            )
        self._values = values = _Values(problem)
        lower, upper = problem.bounds
        super().__init__(
            name,
            problem.dimension,
            int(instance),
            True,  # minimisation
            ioh.RealBounds(lower, upper),
            [
                ioh.RealConstraint(_violation(values, number), weight=problem.penalty, name=quantity)
                for number, (quantity, _) in enumerate(problem.constraints)
            ],
            ioh.RealSolution(np.full(problem.dimension, np.nan), -np.inf),
        )
        self.set_id(function_id(name))
        self.problem = problem
        self._settings: dict[str, Any] = {"instance": int(instance), "name": name}
        self._logger: Any = None

    def __call__(self, x: Any) -> float | np.ndarray:
        """The loss at x (d,), violations of constraints added; or (n,) of them for X (n, d), logged row by row.

        Raises:
            ValueError: another shape, or something that is no number.
        """
        array = float_array("x", x)
        if array.ndim not in (1, 2) or array.shape[-1] != self.problem.dimension:
            d = self.problem.dimension
            raise ValueError(f"x must have shape ({d},) or (n, {d}), got {array.shape}")
        X = np.atleast_2d(array)
        losses = [self._logged(*each) for each in zip(np.nan_to_num(X), *self._values.computed(X), strict=True)]
        return losses[0] if array.ndim == 1 else np.array(losses)

    def evaluate(self, x: np.ndarray) -> float:
        """What ioh calls between its own bookkeeping: the loss at x (d,), without constraints."""
        return self._values.at(x)[0]

    def attach_logger(self, logger: Any) -> None:
        """Log to it from now on. It is kept alive, which ioh itself leaves to the caller: one let go of is a crash."""
        super().attach_logger(logger)
        self._logger = logger

    def detach_logger(self) -> None:
        super().detach_logger()
        self._logger = None

    def _logged(self, x: np.ndarray, loss: float, violations: np.ndarray) -> float:
        self._values.known = x, loss, violations
        return float(super().__call__(x))

    def __reduce__(self) -> tuple:
        return partial(IOHProblem, **self._settings), (self.problem,)


class _Values:
    """The values of the point at hand: ioh asks for the loss and for each violation by themselves."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.known: tuple[np.ndarray, float, np.ndarray] | None = None

    def computed(self, X: np.ndarray) -> tuple[list[float], np.ndarray]:
        """Losses (n,) and constraint values (n, c) at X (n, d), all finite."""
        F, G, status = self._problem.evaluate_all(X)
        F = np.where(np.isfinite(F), F, self._problem.penalty)
        return F[:, 0].tolist(), np.where((status == "ok")[:, None], G, BROKEN)

    def at(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        if self.known is None or not np.array_equal(self.known[0], x):
            (loss,), (violations,) = self.computed(x[None, :])
            self.known = x.copy(), loss, violations
        return self.known[1:]


def _violation(values: _Values, number: int) -> Callable[[np.ndarray], float]:
    """x (d,) → the violation of one constraint, ≥ 0."""
    there = weakref.ref(values)  # ioh never lets go of a constraint's function

    def violation(x: np.ndarray) -> float:
        found = there()
        if found is None:
            raise ReferenceError("the problem of this constraint is gone")
        return max(0.0, float(found.at(x)[1][number]))

    return violation


def file_name(problem: Problem) -> str:
    """The registered id of a problem, or a summary of it with eight digits of its fingerprint; fit for file names."""
    name = problem.spec.id
    if name is None:
        parts = problem.name[-(LONGEST - 9) :], problem.fingerprint[:8]
        name = "-".join(parts)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-LONGEST:]
