"""A problem as an Optuna objective: `study.optimize` runs on it, and so does ask and tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from llm_problem.points import BROKEN, float_array
from llm_problem.problem import Problem

try:
    from optuna.distributions import FloatDistribution
    from optuna.trial import FrozenTrial
except ImportError as error:
    raise ImportError("to_optuna needs the package optuna: pip install optuna cmaes") from error

CONSTRAINTS = "constraints"  # the user attribute of a trial


class OptunaObjective:
    """An objective for `study.optimize(objective, n_trials=…)`: trial → loss, or a tuple of several, to be minimised.

    A coordinate is a parameter of its own, "x0", "x1", …, a float within the problem's bounds. A loss that is not
    finite is handed out as the problem's penalty, because Optuna takes a trial with NaN for failed and forgets it; the
    trial's user attribute "status" then says "non-finite".

    Constraints are set as Optuna's (`Trial.set_constraint`, from Optuna 5 on: every sampler that knows constraints
    finds them), and are the trial's user attribute "constraints", feasible where all are ≤ 0; Optuna 4 wants
    `constraints_func` for its samplers besides.

    Samplers begin with draws uniform over the box of the parameters, and most of the problem's bounds is far from where
    models get better: in 32 dimensions such a point is 16 from the pretrained model, one of N(0, I) is 6 from it.
    `reach=2` is a box to begin with.

    Copies share the model, a pickle carries the problem's description.

    Args:
        problem: what is evaluated.
        reach: half the width of the parameters' box in sigmas of the problem, above 0; None is all of its bounds.

    Attributes:
        problem: the one that was given.
        distributions: name → `FloatDistribution`, for `study.ask(objective.distributions)`.
        directions: "minimize" for each objective, for `create_study(directions=objective.directions)`.

    Raises:
        ValueError: a reach that is not above 0.
    """

    def __init__(self, problem: Problem, *, reach: float | None = None) -> None:
        if reach is not None and not 0 < reach < np.inf:
            raise ValueError(f"reach must be a finite number above 0, or None, got {reach!r}")
        self.problem = problem
        lower, upper = problem.bounds
        if reach is not None:
            lower = np.maximum(lower, problem.x0 - reach * problem.sigma)
            upper = np.minimum(upper, problem.x0 + reach * problem.sigma)
        self.distributions = {
            f"x{number}": FloatDistribution(low, high)
            for number, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
        }
        self.directions = ["minimize"] * len(problem.objectives)

    @property
    def start(self) -> dict[str, float]:
        """The pretrained model as parameters: `study.enqueue_trial(objective.start)` makes it the first trial."""
        return self.params(self.problem.x0)

    def params(self, x: Any) -> dict[str, float]:
        """The parameters of a point x (d,), for `enqueue_trial` and its like.

        Raises:
            ValueError: another shape, or something that is no number.
        """
        values = float_array("x", x)
        if values.shape != (self.problem.dimension,):
            raise ValueError(f"x must have shape ({self.problem.dimension},), got {values.shape}")
        return dict(zip(self.distributions, values.tolist(), strict=True))

    def x(self, trial: Any) -> np.ndarray:
        """The point (d,) of a trial, or of a mapping of parameters such as `study.best_params`.

        A running trial that was asked for without distributions is given its parameters here.

        Raises:
            ValueError: parameters that are missing.
        """
        if isinstance(trial, Mapping):
            if missing := [name for name in self.distributions if name not in trial]:
                raise ValueError(f"a point has the parameters {self._names}, and {missing[0]} is missing")
            return np.array([trial[name] for name in self.distributions], dtype=np.float64)
        return np.array([trial.suggest_float(name, each.low, each.high) for name, each in self.distributions.items()])

    def __call__(self, trial: Any) -> float | tuple[float, ...]:
        """The loss of a trial (or of a `FixedTrial`), or the tuple of its objectives."""
        return self.at_all([trial])[0]

    def at_all(self, trials: Sequence[Any]) -> list[float | tuple[float, ...]]:
        """The same of several trials, by one call of the model: for `study.ask` n times and then `study.tell`."""
        if not trials:
            return []
        F, G, status = self.problem.evaluate_all(np.stack([self.x(trial) for trial in trials]))
        F = np.where(np.isfinite(F), F, self.problem.penalty)  # (n, m)
        G = np.where((status == "ok")[:, None], G, BROKEN)  # (n, c)
        for trial, constraints, word in zip(trials, G.tolist(), status, strict=True):
            self._note(trial, constraints, str(word))
        return [losses[0] if len(losses) == 1 else tuple(losses) for losses in F.tolist()]

    @property
    def constraints_func(self) -> Callable[[FrozenTrial], list[float]] | None:
        """For the `constraints_func` of Optuna 4's samplers; None where the problem has no constraints."""
        return read_constraints if self.problem.constraints else None

    @property
    def _names(self) -> str:
        return f"x0 to x{self.problem.dimension - 1}"

    def _note(self, trial: Any, constraints: list[float], status: str) -> None:
        if status != "ok":
            trial.set_user_attr("status", status)
        if not constraints:
            return
        trial.set_user_attr(CONSTRAINTS, constraints)
        if hasattr(trial, "set_constraint"):
            for (quantity, _), value in zip(self.problem.constraints, constraints, strict=True):
                if quantity not in trial.constraints:  # a trial that is evaluated again warns
                    trial.set_constraint(quantity, value)

    def __repr__(self) -> str:
        return f"<OptunaObjective {self.problem.name}>"


def read_constraints(trial: FrozenTrial) -> list[float]:
    """The constraint values (c,) that an evaluated trial carries."""
    return list(trial.user_attrs[CONSTRAINTS])
