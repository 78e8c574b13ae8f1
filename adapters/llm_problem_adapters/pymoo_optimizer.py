"""pymoo's algorithms for one objective behind the ask/tell protocol.

Blank and Deb, "pymoo: Multi-Objective Optimization in Python" (IEEE Access, 2020), https://pymoo.org
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import Any

import numpy as np

from llm_problem_adapters.base import BaseOptimizer, SearchSpace, finite_box
from llm_problem_adapters.cma_optimizer import check_memory
from llm_problem_adapters.feasibility import behind_the_worst, finite_constraints, violations

# Class name → module, each run through ask/tell on one objective over the reals (pymoo 0.6.2). The last group
# is made for several objectives; its ranks are the order of the losses here. Left out, and why:
#   AGEMOEA, AGEMOEA2: need numba
#   BGA, MixedVariableGA, Optuna: not for vectors of reals
#   CTAEA, MOEAD, NSGA3, RVEA, UNSGA3, R-variants: want reference directions between objectives
#   DNSGA2, KGB: for problems that change; with one objective their test for a change is NaN, and they stop
#   MOPSO_CD: evaluates in its setup, not through ask/tell
#   SimpleCMAES: CMAES without its restarts
SINGLE, MULTI = "pymoo.algorithms.soo.nonconvex.", "pymoo.algorithms.moo."
ALGORITHMS = {
    "BIPOPCMAES": SINGLE + "cmaes",
    "BRKGA": SINGLE + "brkga",
    "CMAES": SINGLE + "cmaes",
    "DE": SINGLE + "de",
    "DIRECT": "llm_problem_adapters.pymoo_repeatable",
    "EPPSO": SINGLE + "pso_ep",
    "ES": SINGLE + "es",
    "G3PCX": SINGLE + "g3pcx",
    "GA": SINGLE + "ga",
    "ISRES": SINGLE + "isres",
    "NRBO": SINGLE + "nrbo",
    "NelderMead": SINGLE + "nelder",
    "NicheGA": SINGLE + "ga_niching",
    "PSO": SINGLE + "pso",
    "PatternSearch": "llm_problem_adapters.pymoo_repeatable",
    "RandomSearch": SINGLE + "random_search",
    "SRES": SINGLE + "sres",
    "CMOPSO": MULTI + "cmopso",
    "GDE3": MULTI + "gde3",
    "NSDE": MULTI + "nsde",
    "NSGA2": MULTI + "nsga2",
    "SMSEMOA": MULTI + "sms",
    "SPEA2": MULTI + "spea2",
}
START_AT_A_POINT = ("BIPOPCMAES", "CMAES", "NelderMead", "PatternSearch")  # take x0
COVARIANCE = ("BIPOPCMAES", "CMAES")  # run by pycma

# What follows from `setup`, or would reach past ask/tell.
_RESERVED = {
    "archive", "callback", "display", "evaluator", "evaluate_initial", "initial", "kwargs", "output", "randn",
    "save_history", "seed", "self", "termination", "verbose", "x0",
}  # fmt: skip


class PymooOptimizer(BaseOptimizer):
    """An algorithm of pymoo by its class name, started from N(x0, sigma²) clipped to the bounds.

    With `start_at_x0` the first of those points is x0 itself. NelderMead, PatternSearch and the CMAES pair
    start at x0 alone; without `start_at_x0` they start at the best of 20 draws, as pymoo has it. DIRECT
    starts at the middle of the box whatever x0 is. No termination of pymoo's is used but the algorithms' own
    ends, which set `stop_reason`. Coordinates without a bound are searched in x0 ± 10 sigma.

    Constraints are dealt with as each algorithm of pymoo does; for the CMAES pair, to which one infeasible point is as
    bad as another, such points come behind their generation's feasible ones, ordered by violation.

    Populations are pymoo's defaults (BRKGA's is 1,000) unless the option `pop_size` says otherwise;
    `batch_size` changes nothing here, as every algorithm has generations of its own, and so does `horizon`,
    but for NRBO, whose schedule needs the number of generations.

    Args:
        algorithm: a key of `ALGORITHMS`.
        **options: constructor arguments of the pymoo class.

    Raises:
        ImportError: pymoo is not installed.
        TypeError: an option the class does not have.
        ValueError: a name that is not in `ALGORITHMS`.
    """

    handles_constraints = True

    def __init__(self, algorithm: str, **options: Any) -> None:
        if algorithm not in ALGORITHMS:
            near = ", ".join(difflib.get_close_matches(algorithm, ALGORITHMS, n=5, cutoff=0.4)) or "none"
            raise ValueError(f"pymoo:{algorithm} is not one of {', '.join(ALGORITHMS)}; near names: {near}")
        self.algorithm, self.options = algorithm, options
        self.name = f"pymoo:{algorithm}"
        known = _known_options(_load(algorithm))
        unknown = sorted(set(options) - known)
        if unknown:
            listed = ", ".join(difflib.get_close_matches(unknown[0], known, n=3) or sorted(known))
            raise TypeError(f"{self.name} has no option {unknown[0]!r}; it has {listed}")

    def _setup(self) -> None:
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

        lower, upper = finite_box(self.space)
        self._box = (lower, upper)
        problem = Problem(n_var=self.space.dimension, n_obj=1, xl=lower, xu=upper)
        self._algorithm = self._configured()
        self._algorithm.setup(problem, termination=NoTermination(), seed=self.seed, verbose=False)
        if self.algorithm in COVARIANCE:
            # Else pycma seeds numpy's global generator, from the clock where the seed is 0.
            self._algorithm.options["seed"] = np.nan
        self._look_ahead()
        first = self._individuals[0].X
        if self.start_at_x0 and np.array_equal(first, self.space.x0):
            self._x0_pending = False  # the first generation has it; else it is evaluated before

    def _configured(self) -> Any:
        """The pymoo algorithm with its options, start and generator."""
        options = dict(self.options)
        at_a_point = self.algorithm in START_AT_A_POINT
        if at_a_point and self.start_at_x0:
            options["x0"] = self.space.x0.copy()
        if self.algorithm in COVARIANCE:
            if not self.options.get("CMA_diagonal"):
                check_memory(self.space.dimension, self.name, "the option CMA_diagonal=True")
            lower, upper = self._box
            steps = self.space.sigma / (upper - lower)  # (d,) pymoo's CMAES works in the unit box
            options.setdefault("sigma", float(steps.max()))
            if not (steps == steps[0]).all():
                options.setdefault("CMA_stds", steps / steps.max())
            generator = np.random.default_rng(np.random.SeedSequence([self.seed, 1]))
            options["randn"] = lambda *shape: generator.standard_normal(shape)
        sampling = options.get("sampling")
        if sampling is None:
            sampling = normal_sampling(self.space, self.start_at_x0)
            if not at_a_point and "sampling" in _known_options(_load(self.algorithm)):
                options["sampling"] = sampling
        if self.algorithm == "NRBO":
            options.setdefault("max_iteration", max(1, self.horizon // options.get("pop_size", 50)))
        algorithm = _load(self.algorithm)(**options)
        if at_a_point and not self.start_at_x0:
            # Not as an option, which CMAES would hand on to pycma.
            algorithm.initialization.sampling = sampling
        return algorithm

    def _ask(self) -> np.ndarray:
        return np.stack([individual.X for individual in self._individuals])  # (k, d)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        G = np.empty((len(F), 0))
        if self.G is not None and self.algorithm in COVARIANCE:
            F = behind_the_worst(F, violations(self.G))
        elif self.G is not None:
            G = finite_constraints(F, self.G)
            self._algorithm.problem.n_ieq_constr = G.shape[1]
        for individual, loss, constraints in zip(self._individuals, self._told(X, F), G, strict=True):
            _evaluate(individual, loss, constraints)
        self._algorithm.evaluator.n_eval += len(F)
        self._algorithm.tell(infills=self._infills)
        self._look_ahead()

    def _told(self, X: np.ndarray, F: np.ndarray) -> np.ndarray:
        """What pymoo is told for losses F (k,): finite, since CMAES never returns on NaN and others report it."""
        if self.algorithm not in COVARIANCE or np.isfinite(F).any():
            return self._finite(F)
        # One penalty for all would be a flat function, at which pycma stops. Ranked by their distance to the best
        # point known, they draw the distribution back to where losses are finite.
        distances = np.linalg.norm((X - self.best_x) / self.space.sigma, axis=1)  # (k,)
        return max(self._worst, 0.0) + 1.0 + distances

    def _look_ahead(self) -> None:
        """Ask pymoo for its next points; whether there are any is known only then."""
        for _ in range(100):
            if not self._algorithm.has_next():
                self.stop_reason = f"{self.name} has come to its own end"
                return
            self._infills = self._algorithm.ask()
            self._individuals = self._to_evaluate()
            if self._individuals:
                return
            self._algorithm.tell(infills=self._infills)  # a step without evaluations
        self.stop_reason = f"{self.name} proposes no more points"

    def _to_evaluate(self) -> list[Any]:
        """The individuals of `_infills` without a loss (a simplex comes with its old points), in bounds."""
        from pymoo.core.individual import Individual

        if self._infills is None:
            return []
        individuals = [self._infills] if isinstance(self._infills, Individual) else list(self._infills)
        individuals = [individual for individual in individuals if "F" not in individual.evaluated]
        for individual in individuals:
            individual.X = np.clip(np.asarray(individual.X, dtype=np.float64), *self._box)
        return individuals


def normal_sampling(space: SearchSpace, start_at_x0: bool) -> Any:
    """A pymoo `Sampling`: X ~ N(x0, sigma²), clipped; with `start_at_x0`, x0 is the very first point."""
    from pymoo.core.sampling import Sampling

    class NormalSampling(Sampling):
        def __init__(self) -> None:
            super().__init__()
            self.x0_pending = start_at_x0

        def _do(self, problem: Any, n_samples: int, *_: Any, random_state: Any = None, **__: Any) -> np.ndarray:
            X = space.x0 + space.sigma * random_state.standard_normal((n_samples, space.dimension))
            X = np.clip(X, problem.xl, problem.xu)
            if self.x0_pending:
                X[0], self.x0_pending = space.x0, False
            return X

    return NormalSampling()


def _evaluate(individual: Any, loss: float, constraints: np.ndarray) -> None:
    """Do what pymoo's `Evaluator` does to an individual of a problem of one objective and constraints (c,)."""
    individual.F = np.array([float(loss)])
    individual.G, individual.H = constraints.copy(), np.empty(0)
    individual.evaluated.update(("F", "G", "H"))


def _load(algorithm: str) -> Any:
    try:
        import pymoo  # noqa: F401  (a missing pymoo must not look like a missing module of ours)
    except ImportError as error:
        raise ImportError("pymoo is needed for this: pip install pymoo") from error
    return getattr(importlib.import_module(ALGORITHMS[algorithm]), algorithm)


def _known_options(algorithm_class: type) -> set[str]:
    """Constructor arguments of a pymoo class and of those it passes keyword arguments on to."""
    known: set[str] = set()
    for base in algorithm_class.__mro__:
        if "__init__" in vars(base) and base is not object:
            known.update(inspect.signature(vars(base)["__init__"]).parameters)
    if algorithm_class.__name__ in COVARIANCE:
        import cma

        known.update(cma.CMAOptions.defaults())
    if algorithm_class.__name__ == "DE":
        from pymoo.algorithms.soo.nonconvex.de import Variant

        known.update(inspect.signature(Variant.__init__).parameters)
    return known - _RESERVED
