"""Every optimizer of Nevergrad behind the ask/tell protocol.

Rapin and Teytaud, "Nevergrad - A gradient-free optimization platform" (2018),
https://github.com/facebookresearch/nevergrad
"""

# ruff: noqa: NPY002 (numpy's legacy generator is what Nevergrad draws from)

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import importlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.random.mtrand import get_bit_generator, set_bit_generator

from llm_problem_adapters.base import BaseOptimizer, SearchSpace
from llm_problem_adapters.feasibility import finite_constraints
from llm_problem_adapters.registry import WHERE_ALL_ARE

# The same seed gave two runs (Nevergrad 1.0.12, each of those that run here). A part of theirs is
# a pycma seeded from the clock, or a thread that draws from numpy's global generator while nothing is asked.
NOT_REPEATABLE = frozenset(
    {
        *(
            "Carola8",
            "Carola9",
            "Carola10",
            "Carola13",
            "CmaFmin2",
            "DS14",
            "DS2",
            "DS4",
            "DS5",
            "DS6",
            "DS8",
            "DS9",
        ),
        *("ChainDSPowell", "ChainMetaModelDSSQP", "MetaModelDSproba", "MetaModelFmin2", "MultiDS"),
    }
)

# A suggested x0 spoils these. SPSA: its pairs of points get out of step, and every later point is NaN. TBPSA: the step
# it guesses for a suggestion is the distance from its centre, which is 0 for x0, and it never moves again.
NO_SUGGESTIONS = frozenset(
    {
        *("MicroSPSA", "SPSA", "TinySPSA"),
        *("ChainNaiveTBPSACMAPowell", "ChainNaiveTBPSAPowell", "NaiveTBPSA", "TBPSA"),
    }
)

# Nevergrad's registry has them whether their library is there or not: name pattern → the module it imports, the package
# that brings it. NGOptF and NGOptF3 choose some of these by budget and dimension.
LIBRARIES = {
    "AX": ("ax", "ax-platform"),
    "AXP": ("ax", "ax-platform"),
    "BOBYQA": ("pybobyqa", "Py-BOBYQA"),
    "BayesOptimBO": ("bayes_optim", "bayes-optim"),
    "FCMA*": ("fcmaes", "fcmaes"),
    "HyperOpt": ("hyperopt", "hyperopt"),
    "NLOPT_*": ("nlopt", "nlopt"),
    "PCABO*": ("bayes_optim", "bayes-optim"),
    "PymooBIPOP": ("pymoo.factory", "pymoo==0.5.0"),  # ours is newer, and has both as pymoo:BIPOPCMAES and pymoo:NSGA2
    "PymooCMAES": ("pymoo.factory", "pymoo==0.5.0"),
    "PymooNSGA2": ("pymoo.factory", "pymoo==0.5.0"),
    "SMAC3*": ("ConfigSpace", "smac"),
    "pysot": ("poap", "pySOT poap"),
}

# Not marked as sequential, but a part of theirs refuses to be built for more than one worker.
SEQUENTIAL = ("DS9", "MetaModelDSproba")

# The arguments that Nevergrad's own call gives every optimizer; they follow from `setup`.
_RESERVED = ("self", "parametrization", "budget", "num_workers", "config")


class NevergradOptimizer(BaseOptimizer):
    """An optimizer of `nevergrad.optimizers.registry`, started at x0 with the problem's sigma and bounds.

    `horizon` is Nevergrad's `budget` (many of its algorithms plan with it) and `batch_size` its
    `num_workers`; an algorithm that Nevergrad marks as sequential is asked for one point at a time, whatever
    the batch size. With `start_at_x0`, x0 is *suggested*, so it is the first point of the first batch and its
    loss reaches the algorithm; the algorithms that take no suggestion (Nevergrad says which) only remember it
    as a point seen, and for those of `NO_SUGGESTIONS` x0 is evaluated apart. Without `start_at_x0`, one that begins
    at its start all the same is started at a draw from N(x0, sigma²) instead.

    Nevergrad lets some algorithms draw from numpy's global generator. They are given a global generator of
    their own, seeded like the rest, while they run, so a run repeats and the caller's generator is left
    alone; `NOT_REPEATABLE` has the exceptions.

    Constraint values are told to Nevergrad as such: it adds a penalty to the loss of an infeasible point, small in the
    first half of the horizon, and never recommends one.

    Nevergrad's CMA takes a smaller step of its own where there are bounds on every side (0.3 sigma, or 0.15 from 18
    dimensions on).

    Args:
        algorithm: a name in Nevergrad's registry, "TwoPointsDE" for instance.
        **options: constructor arguments of that algorithm's family (`popsize=20` for "DE"), over its
            registered settings.

    Raises:
        ImportError: Nevergrad is not installed, or the library that this algorithm of its needs; the message is the
            pip line.
        TypeError: an option the algorithm's family does not have.
        ValueError: a name that is not in the registry.
    """

    handles_constraints = True

    def __init__(self, algorithm: str, **options: Any) -> None:
        self.algorithm, self.options = algorithm, options
        self.name = f"nevergrad:{algorithm}"
        _factory(algorithm, options)

    def _setup(self) -> None:
        self._candidates: list[Any] = []
        self._start(self.space)
        if not self.start_at_x0:
            self._start_elsewhere()
        elif self.algorithm not in NO_SUGGESTIONS:
            self._optimizer.suggest(self.space.x0.copy())
            self._x0_pending = False  # it comes with the first batch

    def _start(self, space: SearchSpace) -> None:
        self._global_bits = np.random.MT19937(np.random.SeedSequence([self.seed, 1]))
        with self._own_global_generator():
            parametrization = make_parametrization(space)
            parametrization.random_state.seed(self.seed % 2**32)  # RandomState takes 32 bits
            self._optimizer = self._build(parametrization)
        self._workers = 1 if self._optimizer.no_parallelization else self._optimizer.num_workers

    def _start_elsewhere(self) -> None:
        """Start anew at a draw where the first point is x0; only asking tells."""
        with self._own_global_generator():
            self._candidates = self._next_candidates()
        if np.array_equal(self._candidates[0].value, self.space.x0):
            self._candidates = []
            start = self.space.x0 + self.space.sigma * self.rng.standard_normal(self.space.dimension)  # N(x0, sigma²)
            self._start(replace(self.space, x0=self.space.clip(start)))

    def _build(self, parametrization: Any) -> Any:
        factory = _factory(self.algorithm, self.options)
        sequential = factory.no_parallelization or self.algorithm in SEQUENTIAL
        workers = 1 if sequential else self.batch_size or 1
        return factory(parametrization, budget=self.horizon, num_workers=workers)

    def _ask(self) -> np.ndarray:
        if not self._candidates:
            with self._own_global_generator():
                self._candidates = self._next_candidates()
        X = np.stack([candidate.value for candidate in self._candidates])  # (k, d)
        return self.space.clip(X)

    def _next_candidates(self) -> list[Any]:
        # Never beyond the horizon within one batch: Nevergrad's own loop does not, and one-shot designs have
        # exactly that many points.
        count = max(1, min(self._workers, self.horizon - self._optimizer.num_ask))
        return [self._optimizer.ask() for _ in range(count)]

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        import nevergrad as ng

        G = [None] * len(F) if self.G is None else finite_constraints(F, self.G)
        with self._own_global_generator():
            for candidate, loss, constraints in zip(self._candidates, self._finite(F), G, strict=True):
                # Raised for the suggested x0 by an algorithm that takes no suggestions; by then x0 is in
                # Nevergrad's archive, which is all that can be had.
                with contextlib.suppress(ng.errors.TellNotAskedNotSupportedError):
                    self._optimizer.tell(candidate, float(loss), constraints)
            self._candidates = []
            if self._optimizer.recast or self._optimizer.num_ask >= self.horizon:
                self._look_ahead()

    def _look_ahead(self) -> None:
        """Ask early where the algorithm runs in a thread of its own, or has spent its horizon.

        Only asking tells whether it goes on: Nevergrad would hand out random points from a thread's end on, and some
        of its designs fail beyond their last point; here the run stops. Waiting for its next point also means that the
        thread runs while the generators are swapped.
        """
        import nevergrad as ng

        with warnings.catch_warnings():
            warnings.simplefilter("error", ng.errors.FinishedUnderlyingOptimizerWarning)
            try:
                self._candidates = self._next_candidates()
            except ng.errors.FinishedUnderlyingOptimizerWarning:
                self.stop_reason = f"{self.name} has converged, or spent its horizon of {self.horizon}"
            except AssertionError as error:
                if "Over the budget" not in str(error):
                    raise
                self.stop_reason = f"{self.name} has spent its horizon of {self.horizon}"

    def _recommend(self) -> np.ndarray:
        if not self._optimizer.num_tell:
            return self.best_x
        with self._own_global_generator():
            return self.space.clip(np.asarray(self._optimizer.recommend().value, dtype=np.float64))

    @contextlib.contextmanager
    def _own_global_generator(self) -> Iterator[None]:
        """Swap numpy's global generator for this run's own, and silence the warnings that mean nothing.

        What is printed goes to stderr. A library that turns out to be missing is an ImportError with the pip line.
        """
        import nevergrad as ng

        outside, state = get_bit_generator(), np.random.get_state(legacy=False)
        set_bit_generator(self._global_bits)
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
                # Advice on budget and num_workers, which are the caller's choice here.
                warnings.simplefilter("ignore", ng.errors.InefficientSettingsWarning)
                # pycma remembers a suggested x0 that it did not draw itself, and wonders about it ever after.
                warnings.filterwarnings("ignore", message="orphanated injected solution")
                # Nevergrad asks scipy for a tolerance of 0, and scipy's COBYLA takes its smallest instead.
                warnings.filterwarnings("ignore", message="COBYLA: Invalid RHOEND")
                yield
        except (ModuleNotFoundError, RuntimeError) as error:  # from an algorithm's thread it comes as a cause
            missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
            if not isinstance(missing, ModuleNotFoundError):
                raise
            module, packages = str(missing.name), dict(LIBRARIES.values())
            raise ImportError(_pip_line(self.algorithm, packages.get(module, module.partition(".")[0]))) from error
        finally:
            set_bit_generator(outside)
            if state["has_gauss"]:  # the second half of a pair of normals, which the swap drops
                np.random.set_state(state)


def make_parametrization(space: SearchSpace) -> Any:
    """A Nevergrad `Array` around x0 whose mutations have the space's sigma, inside its bounds.

    Setting bounds would replace sigma by a uniform draw over the box; `full_range_sampling=False`, after
    `set_mutation`, keeps it.
    """
    import nevergrad as ng

    sigma = float(space.sigma[0]) if (space.sigma == space.sigma[0]).all() else space.sigma.copy()
    array = ng.p.Array(init=space.x0.copy()).set_mutation(sigma=sigma)
    if space.bounded:
        array.set_bounds(space.lower, space.upper, full_range_sampling=False)
    elif np.isfinite(space.lower).any() or np.isfinite(space.upper).any():
        # Bouncing, the default, needs both ends to be finite.
        array.set_bounds(space.lower, space.upper, method="clipping", full_range_sampling=False)
    return array


def missing_package(algorithm: str) -> str | None:
    """The package that this algorithm of Nevergrad's needs and that is not installed, or None."""
    for pattern, (module, package) in LIBRARIES.items():
        if fnmatch.fnmatchcase(algorithm, pattern):
            try:
                return None if importlib.util.find_spec(module) else package
            except ModuleNotFoundError:  # of a package that a module would be in
                return package
    return None


def _pip_line(algorithm: str, package: str) -> str:
    return f"nevergrad:{algorithm} needs {package.partition('==')[0]}, which is not installed: pip install {package}"


def nevergrad_names() -> list[str]:
    """The names of Nevergrad's registry whose libraries are installed, sorted.

    Raises:
        ImportError: Nevergrad is not installed.
    """
    return sorted(name for name in _registry() if missing_package(name) is None)


def _registry() -> Any:
    if "nevergrad" not in sys.modules:
        _import_nevergrad()
    import nevergrad as ng

    return ng.optimizers.registry


def _import_nevergrad() -> None:
    """Import Nevergrad with a fixed global generator: some of its variants draw their settings on import."""
    outside = np.random.get_state()
    np.random.seed(0)
    try:
        # What it prints must not get between the lines of a program that writes its results to stdout.
        with contextlib.redirect_stdout(sys.stderr):
            importlib.import_module("nevergrad")
    except ImportError as error:
        raise ImportError('Nevergrad is needed for this: pip install nevergrad "numpy<2.3"') from error
    finally:
        np.random.set_state(outside)


def _factory(algorithm: str, options: dict[str, Any]) -> Any:
    """What `registry` has under that name, configured anew where options are given.

    Raises:
        ImportError, TypeError, ValueError: see `NevergradOptimizer`.
    """
    registry = _registry()
    if algorithm not in registry:
        near = ", ".join(difflib.get_close_matches(algorithm, registry, n=5, cutoff=0.5)) or "none"
        raise ValueError(f"Nevergrad has no optimizer {algorithm!r}; near names: {near}{WHERE_ALL_ARE}")
    if (package := missing_package(algorithm)) is not None:
        raise ImportError(_pip_line(algorithm, package))
    entry = registry[algorithm]
    if not options:
        return entry
    configured = not inspect.isclass(entry)
    family = type(entry) if configured else entry
    known = [name for name in inspect.signature(family.__init__).parameters if name not in _RESERVED]
    unknown = sorted(set(options) - set(known))
    if unknown:
        listed = ", ".join(known) or "none"
        raise TypeError(f"nevergrad:{algorithm} has no option {unknown[0]!r}; it has {listed}")
    if not configured:
        return _WithOptions(entry, options)
    return family(**{**entry.config(), **options})


class _WithOptions:
    """An optimizer class of Nevergrad's with keyword arguments fixed, called like the class."""

    def __init__(self, optimizer_class: Any, options: dict[str, Any]) -> None:
        self._class, self._options = optimizer_class, options
        self.no_parallelization = optimizer_class.no_parallelization

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._class(*args, **kwargs, **self._options)
