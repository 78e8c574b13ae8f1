"""Nevergrad behind the protocol, on two dozen of its algorithms, against its own ask and tell."""

# ruff: noqa: NPY002 (numpy's legacy generator is what has to be left alone)

import fnmatch
import importlib.util
import sys
import warnings

import nevergrad as ng
import numpy as np
import pytest

from llm_problem_adapters import NevergradOptimizer, minimize
from llm_problem_adapters.base import SearchSpace
from llm_problem_adapters.nevergrad_optimizer import (
    LIBRARIES,
    NOT_REPEATABLE,
    make_parametrization,
    missing_package,
    nevergrad_names,
)

X0 = np.array([0.5, -0.3, 0.1, -1.1])
NAMES = [
    "NGOpt", "NgIohTuned", "CMA", "DiagonalCMA", "DE", "TwoPointsDE", "OnePointDE", "LhsDE", "QrDE", "PSO",
    "RealSpacePSO", "OnePlusOne", "DiscreteOnePlusOne", "TBPSA", "NaiveTBPSA", "EDA", "NelderMead", "Cobyla",
    "SPSA", "RandomSearch", "ScrHammersleySearch", "MetaRecentering", "ES",
    "RescaledCMA", "Shiwa", "ChainCMAPowell", "NoisyOnePlusOne",
]  # fmt: skip
# One point at a time, these are or choose deterministic ones from scipy: every seed gives the same run.
WITHOUT_CHANCE = {"NelderMead", "Cobyla", "NGOpt", "NgIohTuned", "Shiwa"}
# Their first point is the start of the parametrization, suggested or not.
AT_THEIR_START = WITHOUT_CHANCE | {"OnePlusOne", "DiscreteOnePlusOne", "NoisyOnePlusOne"}


class Sphere:
    dimension, x0, sigma = 4, X0, 1.0
    bounds = (np.full(4, -5.0), np.full(4, 5.0))

    def __init__(self, spoilt=None):
        self.spoilt, self.seen = spoilt, []

    def evaluate(self, X):
        self.seen.extend(X.copy())
        losses = ((X - 0.2) ** 2).sum(axis=1)
        if self.spoilt is not None:
            losses[X[:, 0] > 0.6] = self.spoilt
        return losses


def test_names_are_nevergrads():
    without = {name for name in ng.optimizers.registry if missing_package(name)}
    assert set(NAMES) <= set(nevergrad_names()) == set(ng.optimizers.registry) - without
    assert set(NOT_REPEATABLE) <= set(nevergrad_names())


@pytest.fixture
def missing(monkeypatch):
    """A function: make a library impossible to import."""

    def hide(module):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a))
        monkeypatch.setitem(sys.modules, module, None)

    return hide


@pytest.mark.parametrize("name", ["AX", "BayesOptimBO", "FCMAs03", "NLOPT_LN_SBPLX", "PCABO", "SMAC3", "pysot"])
def test_an_algorithm_whose_library_is_missing_is_not_named_and_says_what_to_install(name, missing):
    (module, package) = next(entry for pattern, entry in LIBRARIES.items() if fnmatch.fnmatchcase(name, pattern))
    missing(module)
    assert name in ng.optimizers.registry and name not in nevergrad_names()
    with pytest.raises(ImportError, match=f"^nevergrad:{name} needs .* pip install {package}$"):
        NevergradOptimizer(name)


def test_a_library_that_turns_out_to_be_missing_is_the_pip_line(missing, capfd):
    """NGOptF3 chooses SMAC3 at this budget and dimension."""
    missing("ConfigSpace")
    settings = {"dimension": 4, "x0": X0, "bounds": (-5, 5), "sigma": 1.0, "horizon": 60}
    with pytest.raises(ImportError, match=r"^nevergrad:NGOptF3 needs smac, .* pip install smac$"):
        optimizer = NevergradOptimizer("NGOptF3").setup(**settings)
        for _ in range(3):
            X = optimizer.ask(1)
            optimizer.tell(X, (X**2).sum(axis=1))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("budget", [1, 2, 7, 50, 53])
@pytest.mark.parametrize("name", ["NGOpt", "DE", "OnePlusOne", "TBPSA", "Cobyla", "SPSA", "ScrHammersleySearch"])
def test_budget_is_exact_and_x0_comes_first(name, budget):
    problem = Sphere()
    result = minimize(problem, f"nevergrad:{name}", budget, seed=3)
    assert len(problem.seen) == result.evaluations == budget
    assert np.array_equal(problem.seen[0], X0)


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [(name, None) for name in NAMES] + [(name, 8) for name in ("CMA", "DE", "NelderMead", "PSO", "Shiwa", "TBPSA")],
)
def test_repeats_to_the_bit_inside_bounds_from_x0(name, batch_size):
    np.random.seed(2)
    np.random.randn()  # so that a cached normal is part of the state
    before = np.random.get_state()
    problems = [Sphere(), Sphere(), Sphere()]
    results = [
        minimize(problem, f"nevergrad:{name}", 50, seed=seed, batch_size=batch_size)
        for problem, seed in zip(problems, (0, 0, 1), strict=True)
    ]
    after = np.random.get_state()
    first, again, other = (np.array(problem.seen) for problem in problems)
    assert len(first) == 50
    assert np.array_equal(first[0], X0)
    assert np.array_equal(first, again)
    assert np.array_equal(results[0].x, results[1].x)
    if name not in WITHOUT_CHANCE or (batch_size and name not in ("NelderMead", "Cobyla")):
        assert not np.array_equal(first, other)
    assert (np.abs(first) <= 5).all()
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("name", NAMES)
def test_without_x0_the_start_is_theirs_or_a_draw(name, batch_size):
    settings = {"dimension": 4, "x0": X0, "bounds": (-5, 5), "sigma": 0.5, "horizon": 50, "batch_size": batch_size}
    first, again, other = (
        NevergradOptimizer(name).setup(**settings, seed=seed, start_at_x0=False).ask(50) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], X0)
    array = ng.p.Array(init=X0).set_mutation(sigma=0.5).set_bounds(-5, 5, full_range_sampling=False)
    array.random_state.seed(3)
    factory = ng.optimizers.registry[name]
    theirs = factory(array, budget=50, num_workers=1 if factory.no_parallelization else batch_size or 1).ask().value
    at_their_start = np.array_equal(theirs, X0)
    assert at_their_start == (name in AT_THEIR_START) or batch_size  # with which NGOpt and its kin choose another
    if at_their_start:
        assert not np.array_equal(first[0], other[0])
        assert np.abs(first[0] - X0).max() < 2.5  # five deviations of the draw
    else:
        np.testing.assert_array_equal(first[0], theirs)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["CMA", "DE", "OnePlusOne", "PSO", "TBPSA", "NelderMead", "NGOpt", "RandomSearch"])
def test_losses_that_are_not_finite_are_never_best(name, spoilt):
    problem = Sphere(spoilt)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ng.errors.BadLossWarning)
        result = minimize(problem, f"nevergrad:{name}", 60, seed=1)
    good = np.array([x for x in problem.seen if x[0] <= 0.6])
    assert result.best_loss == Sphere().evaluate(good).min()
    assert np.isfinite(result.loss)


@pytest.mark.parametrize("name", ["CMA", "DE", "OnePlusOne", "NGOpt", "Cobyla", "NelderMead", "TwoPointsDE"])
def test_sphere_improves(name):
    result = minimize(Sphere(), f"nevergrad:{name}", 150, seed=2)
    assert result.loss < 0.5 * result.losses[0]


@pytest.mark.parametrize("workers", [1, 6])
@pytest.mark.parametrize("name", ["CMA", "DE", "TwoPointsDE", "PSO", "OnePlusOne", "LhsDE", "Shiwa", "NelderMead"])
def test_equals_nevergrads_own_ask_and_tell(name, workers):
    optimizer = NevergradOptimizer(name).setup(
        dimension=4, x0=X0, bounds=(-5, 5), sigma=0.5, horizon=48, batch_size=workers, seed=11
    )
    ours = []
    while len(ours) < 48:
        X = optimizer.ask(48)
        optimizer.tell(X, ((X - 0.2) ** 2).sum(axis=1))
        ours.extend(X)

    array = ng.p.Array(init=X0).set_mutation(sigma=0.5).set_bounds(-5, 5, full_range_sampling=False)
    array.random_state.seed(11)
    factory = ng.optimizers.registry[name]
    workers = 1 if factory.no_parallelization else workers
    their = factory(array, budget=48, num_workers=workers)
    their.suggest(X0)
    theirs = []
    for _ in range(48 // workers):
        candidates = [their.ask() for _ in range(workers)]
        for candidate in candidates:
            their.tell(candidate, float(((candidate.value - 0.2) ** 2).sum()))
            theirs.append(candidate.value)
    assert np.array_equal(ours, theirs)
    assert np.array_equal(optimizer.recommend(), their.recommend().value)


@pytest.mark.parametrize("sigma", [0.1, np.array([0.1, 0.2, 0.5, 1.0])])
@pytest.mark.parametrize("bounds", [None, (-5, 5), (-np.inf, 5), ([-5, -5, -5, -5], [5, np.inf, 5, 5])])
@pytest.mark.parametrize("name", ["RandomSearch", "DE"])
def test_sigma_survives_the_bounds(name, bounds, sigma):
    """Setting bounds the plain way makes both draw from the whole box (a deviation of 2.9 here)."""
    settings = {"dimension": 4, "x0": 0.0, "bounds": bounds, "sigma": sigma, "horizon": 200}
    optimizer = NevergradOptimizer(name, **({"popsize": 200} if name == "DE" else {}))
    optimizer.setup(**settings, batch_size=200, start_at_x0=False)
    X = optimizer.ask(200)
    assert (X.std(axis=0) > 0.7 * np.asarray(sigma)).all()
    assert (X.std(axis=0) < 1.6 * np.asarray(sigma)).all()


def test_partly_bounded_stays_inside():
    space = SearchSpace.build(2, np.array([0.9, 0.0]), ([-np.inf, -0.1], [1.0, np.inf]), 1.0)
    array = make_parametrization(space)
    assert np.array_equal(array.value, space.x0)
    X = np.array([array.sample().value for _ in range(200)])
    assert (X[:, 0] <= 1).all() and (X[:, 1] >= -0.1).all()


def test_suggested_x0_is_exact_and_is_used():
    x0 = np.array([0.1 + 0.2, -1 / 3, np.pi, -4.999999])
    for bounds in ((-5, 5), None):
        optimizer = NevergradOptimizer("DE").setup(dimension=4, x0=x0, bounds=bounds, horizon=60, sigma=0.3)
        first = optimizer.ask(1)
        assert np.array_equal(first[0], x0)
        optimizer.tell(first, np.array([-7.0]))
        assert np.array_equal(optimizer.recommend(), x0)
        assert optimizer._optimizer.num_tell_not_asked == 1


@pytest.mark.parametrize("name", ["SPSA", "TBPSA", "NaiveTBPSA"])
def test_x0_does_not_spoil_what_takes_no_suggestion(name):
    """With a suggestion, SPSA's points become NaN, and TBPSA's the same one for ever."""
    result = minimize(Sphere(), f"nevergrad:{name}", 60, keep_x=True)
    assert np.isfinite(result.X).all()
    assert len(np.unique(result.X, axis=0)) > 50
    assert np.array_equal(result.X[0], X0)


def test_an_algorithm_that_has_converged_stops():
    optimizer = NevergradOptimizer("Cobyla").setup(dimension=4, x0=X0, bounds=(-5, 5), horizon=40)
    n = 0
    while optimizer.stop_reason is None and n < 100:
        X = optimizer.ask(1)
        optimizer.tell(X, ((X - 0.2) ** 2).sum(axis=1))
        n += 1
    assert n <= 41
    assert "spent its horizon of 40" in optimizer.stop_reason


@pytest.mark.parametrize("name", ["LogSQPCMA", "SqrtMultiBFGS"])
def test_designs_that_fail_beyond_their_last_point_stop(name):
    optimizer = NevergradOptimizer(name).setup(dimension=4, x0=X0, bounds=(-5, 5), horizon=40)
    n = 0
    while optimizer.stop_reason is None and n < 200:
        X = optimizer.ask(7)
        optimizer.tell(X, ((X - 0.2) ** 2).sum(axis=1))
        n += len(X)
    assert 40 <= n < 60
    assert optimizer.stop_reason == f"nevergrad:{name} has spent its horizon of 40"
    assert np.isfinite(optimizer.recommend()).all()


def test_sequential_algorithms_are_asked_one_at_a_time():
    optimizer = NevergradOptimizer("NelderMead").setup(dimension=4, horizon=40, batch_size=8)
    assert len(optimizer.ask(8)) == 1
    assert len(NevergradOptimizer("DE").setup(dimension=4, horizon=40, batch_size=8).ask(8)) == 8
    assert len(NevergradOptimizer("DS9").setup(dimension=4, horizon=40, batch_size=8).ask(8)) == 1


def test_no_warnings_about_settings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("DE", "CMA", "Cobyla"):
            minimize(Sphere(), f"nevergrad:{name}", 20, batch_size=4)


def test_options():
    settings = {"dimension": 4, "horizon": 40}
    assert NevergradOptimizer("DE", popsize=17, crossover="twopoints").setup(**settings)._optimizer.llambda == 17
    with pytest.raises(TypeError, match="no option 'middle'; it has middle_point"):
        NevergradOptimizer("RandomSearch", scale=2, middle=1)
    with pytest.raises(ValueError, match=r"near names: .*NGOpt"):
        NevergradOptimizer("NGOptt")
