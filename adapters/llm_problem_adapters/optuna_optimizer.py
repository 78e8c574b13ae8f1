"""Optuna's samplers behind the ask/tell protocol.

Akiba, Sano, Yanase, Ohta and Koyama, "Optuna: A Next-generation Hyperparameter Optimization Framework" (KDD, 2019),
https://optuna.org
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_problem_adapters.base import LARGEST, BaseOptimizer, finite_box
from llm_problem_adapters.cma_optimizer import check_memory
from llm_problem_adapters.feasibility import in_order, violations
from llm_problem_adapters.options import positive

# Class name in `optuna.samplers` → the package that it needs besides (optuna 5.0.0). Left out, and why:
#   BruteForceSampler, GridSampler: try every combination of values, which are listed beforehand
#   PartialFixedSampler: runs another sampler with some coordinates fixed
SAMPLERS: dict[str, str | None] = {
    "CmaEsSampler": "cmaes",
    "GPSampler": None,
    "NSGAIIISampler": None,
    "NSGAIISampler": None,
    "QMCSampler": None,
    "RandomSampler": None,
    "TPESampler": None,
}
KNOW_CONSTRAINTS = ("GPSampler", "NSGAIIISampler", "NSGAIISampler", "TPESampler")

# What follows from `setup`, or from what is told.
_RESERVED = {"self", "seed", "x0", "sigma0", "constraints_func"}


class OptunaOptimizer(BaseOptimizer):
    """A sampler of Optuna by its class name, in a study that is kept in memory; the best point told is recommended.

    Optuna searches a box and has no sigma: but for CmaEsSampler, which starts at x0 with the problem's sigma (the
    smallest, where coordinates differ), a sampler begins with draws uniform over the box, much further from the
    pretrained model than sigma. The option `reach` narrows the box to x0 ± reach·sigma; with 2, TPE finds in 300
    evaluations what it does not find in the whole box (tiny-gpt2-prose-lora-xs-d32-v1: a loss of 4.79, x0 has 4.83).
    Coordinates without a bound are searched in x0 ± 10 sigma.

    With `start_at_x0`, x0 is enqueued as the first trial, by itself. Then `batch_size` trials (without it, one) are
    asked for before any is told; a sampler's populations are counted in trials, whatever the batch. `horizon` changes
    nothing.

    Constraints are handed to the samplers that know them, from Optuna 5 on; to others what is infeasible comes behind
    what is feasible. A loss that is not finite is told as the problem's penalty (to GPSampler as infinity, which it
    replaces by the worst loss itself).

    QMCSampler scrambles its sequence unless `scramble=False`: without, every seed gives the same one, and its first
    point is a corner of the box.

    Args:
        algorithm: a key of `SAMPLERS`.
        reach: half the width of the box in sigmas, above 0; None is the whole box.
        **options: constructor arguments of the sampler.

    Raises:
        ImportError: Optuna is not installed, or what the sampler needs besides.
        TypeError: an option that the sampler does not have.
        ValueError: a name that is not in `SAMPLERS`, or a reach that is not above 0.
        MemoryError: from `setup`, a full covariance matrix of CmaEsSampler that this machine's memory cannot hold.
    """

    handles_constraints = True

    def __init__(self, algorithm: str, *, reach: float | None = None, **options: Any) -> None:
        if algorithm not in SAMPLERS:
            near = ", ".join(difflib.get_close_matches(algorithm, SAMPLERS, n=3, cutoff=0.4)) or "none"
            raise ValueError(f"optuna:{algorithm} is not one of {', '.join(SAMPLERS)}; near names: {near}")
        self.algorithm, self.options = algorithm, options
        self.name = f"optuna:{algorithm}"
        self.reach = None if reach is None else positive("reach", reach)
        known = ["reach", *(set(inspect.signature(self._sampler_class()).parameters) - _RESERVED)]
        for option in options:
            if option not in known:
                near = ", ".join(difflib.get_close_matches(option, known, n=3) or sorted(known))
                raise TypeError(f"{self.name} has no option {option!r}; it has {near}")

    def _sampler_class(self) -> Any:
        optuna = _import_optuna()
        package = SAMPLERS[self.algorithm]
        if package is not None and importlib.util.find_spec(package) is None:
            raise ImportError(f"{self.name} needs {package}, which is not installed: pip install {package}")
        return getattr(optuna.samplers, self.algorithm)

    def _setup(self) -> None:
        optuna = _import_optuna()
        lower, upper = finite_box(self.space)
        if self.reach is not None:
            lower = np.maximum(lower, self.space.x0 - self.reach * self.space.sigma)
            upper = np.minimum(upper, self.space.x0 + self.reach * self.space.sigma)
        self._distributions = {
            f"x{number}": optuna.distributions.FloatDistribution(low, high)
            for number, (low, high) in enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
        }
        with _quiet():
            self._study = optuna.create_study(sampler=self._sampler(lower, upper))
            if self.start_at_x0:
                self._study.enqueue_trial(self._params(self.space.x0))
        self._x0_first, self._x0_pending = self.start_at_x0, False
        self._trials: list[Any] = []

    def _sampler(self, lower: np.ndarray, upper: np.ndarray) -> Any:
        options = {"seed": self.seed % 2**32, **self.options}  # RandomState takes 32 bits
        if self.algorithm == "QMCSampler":
            options.setdefault("scramble", True)
        if self.algorithm == "CmaEsSampler":
            if not options.get("use_separable_cma"):
                check_memory(self.space.dimension, self.name, "the option use_separable_cma=True")
            if options.get("source_trials") is None:  # which say where to start, and how wide
                options["x0"] = self._params(self.space.x0)
                options["sigma0"] = float(np.min(self.space.sigma / (upper - lower)))  # it works in the unit box
        return self._sampler_class()(**options)

    def _params(self, x: np.ndarray) -> dict[str, float]:
        return dict(zip(self._distributions, x.tolist(), strict=True))

    def _ask(self) -> np.ndarray:
        count = 1 if self._x0_first else self.batch_size or 1
        self._x0_first = False
        with _quiet():
            self._trials = [self._study.ask(self._distributions) for _ in range(count)]
        X = np.array([[trial.params[name] for name in self._distributions] for trial in self._trials])  # (k, d)
        return self.space.clip(X)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        told = F if self.algorithm == "GPSampler" else self._finite(F)
        G: np.ndarray = np.empty((len(F), 0))
        if self.G is not None and self.algorithm in KNOW_CONSTRAINTS and hasattr(self._trials[0], "set_constraint"):
            G = np.where(np.isfinite(F)[:, None] & np.isfinite(self.G), self.G, np.inf)
        elif self.G is not None:
            told = np.where(np.isfinite(F), in_order(told, violations(self.G), 2 * LARGEST, 4 * LARGEST), told)
        with _quiet():
            for trial, loss, constraints in zip(self._trials, told.tolist(), G.tolist(), strict=True):
                for number, value in enumerate(constraints):
                    trial.set_constraint(str(number), value)
                self._study.tell(trial, loss)


def sampler_names() -> list[str]:
    """The keys of `SAMPLERS` whose packages are installed, sorted; none where Optuna is not."""
    if importlib.util.find_spec("optuna") is None:
        return []
    return sorted(name for name, need in SAMPLERS.items() if need is None or importlib.util.find_spec(need) is not None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna neither logs nor warns here, and logs as before afterwards.

    It warns of what is experimental, of arguments that a later version drops, and of fallbacks to independent draws.
    """
    optuna = _import_optuna()
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("optuna is needed for this: pip install optuna cmaes") from error
    return optuna
