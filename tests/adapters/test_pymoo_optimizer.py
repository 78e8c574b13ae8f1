"""pymoo behind the protocol, every algorithm of the table, against pymoo's own runs."""

# ruff: noqa: NPY002 (numpy's legacy generator is what has to be left alone)

import importlib

import numpy as np
import pytest
from pymoo.core.problem import Problem
from pymoo.optimize import minimize as pymoo_minimize

from llm_problem_adapters import PymooOptimizer, minimize
from llm_problem_adapters.base import SearchSpace, finite_box
from llm_problem_adapters.pymoo_optimizer import ALGORITHMS, normal_sampling

X0 = np.array([0.5, -0.3, 0.1, -1.1])
POPULATIONS = sorted(set(ALGORITHMS) - {"BIPOPCMAES", "CMAES", "DIRECT", "NelderMead", "PatternSearch"})
SMALL = {
    "BRKGA": {"n_elites": 4, "n_offsprings": 14, "n_mutants": 2},
    "ES": {"n_offsprings": 28, "pop_size": 4},
    "ISRES": {"n_offsprings": 28, "pop_size": 4},
    "SRES": {"n_offsprings": 28, "pop_size": 4},
    "RandomSearch": {"n_points_per_iteration": 20},
} | {name: {} for name in ("BIPOPCMAES", "CMAES", "DIRECT", "NelderMead", "PatternSearch")}


class Sphere:
    dimension, x0, sigma = 4, X0, 1.0
    bounds = (np.full(4, -5.0), np.full(4, 5.0))

    def __init__(self, spoilt=None):
        self.spoilt, self.seen = spoilt, []

    def evaluate(self, X):
        self.seen.extend(X.copy())
        losses = ((X - 0.2) ** 2).sum(axis=1)
        if self.spoilt is not None:
            losses[X[:, 0] > 0.4] = self.spoilt
        return losses


def small(name):
    """The algorithm with a population of 20 or so, so that a few hundred evaluations are generations."""
    return PymooOptimizer(name, **SMALL.get(name, {"pop_size": 20}))


@pytest.mark.parametrize("budget", [1, 2, 7, 50, 53])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_budget_is_exact_and_x0_comes_first(name, budget):
    problem = Sphere()
    result = minimize(problem, small(name), budget, seed=3)
    assert len(problem.seen) == result.evaluations == budget
    assert np.array_equal(problem.seen[0], X0)
    if name != "EPPSO":  # whose best particle rests where it is
        assert sum(np.array_equal(x, X0) for x in problem.seen) == 1


@pytest.mark.parametrize("name", ALGORITHMS)
def test_repeats_to_the_bit_inside_bounds_and_improves(name):
    np.random.seed(2)
    before = np.random.get_state()
    runs = [minimize(Sphere(), small(name), 200, seed=seed, keep_x=True) for seed in (0, 0, 1)]
    after = np.random.get_state()
    assert np.array_equal(runs[0].X, runs[1].X)
    if name != "NelderMead":  # which draws nothing
        assert not np.array_equal(runs[0].X, runs[2].X)
    assert (np.abs(runs[0].X) <= 5).all()
    assert runs[0].loss < 0.5 * runs[0].losses[0]
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_x0_is_not_forced(name):
    problem = Sphere()
    minimize(problem, small(name), 30, start_at_x0=False)
    assert not np.array_equal(problem.seen[0], X0)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_losses_that_are_not_finite_are_never_best(name, spoilt):
    problem = Sphere(spoilt)
    result = minimize(problem, small(name), 150, seed=1)
    assert result.evaluations == 150
    good = [x for x in problem.seen if x[0] <= 0.4]
    assert result.best_loss == (Sphere().evaluate(np.array(good)).min() if good else np.inf)


def test_told_non_finite_losses_without_the_driver():
    """pymoo's CMAES never returns on NaN."""
    optimizer = PymooOptimizer("CMAES").setup(dimension=4, x0=X0, bounds=(-5, 5), horizon=100)
    while optimizer.stop_reason is None:  # pycma ends on a flat function
        X = optimizer.ask(100)
        optimizer.tell(X, np.full(len(X), np.nan))
    assert optimizer.best_loss == np.inf


class PymooSphere(Problem):
    def __init__(self):
        super().__init__(n_var=4, n_obj=1, xl=-5.0, xu=5.0)
        self.seen = []

    def _evaluate(self, X, out, *args, **kwargs):
        self.seen.extend(X.copy())
        out["F"] = ((X - 0.2) ** 2).sum(axis=1)


@pytest.mark.parametrize("name", [*POPULATIONS, "DIRECT", "NelderMead", "PatternSearch"])
def test_equals_pymoos_own_minimize(name):
    """Whole generations, the same sampling and seed; DIRECT's and PatternSearch's class is the repeatable one."""
    optimizer = small(name).setup(dimension=4, x0=X0, bounds=(-5, 5), sigma=1.0, horizon=300, seed=5)
    options = dict(optimizer.options)
    if name in ("NelderMead", "PatternSearch"):
        options["x0"] = X0
    elif name != "DIRECT":
        options["sampling"] = normal_sampling(optimizer.space, True)
    if name == "NRBO":
        options["max_iteration"] = 300 // 20
    problem = PymooSphere()
    algorithm = getattr(importlib.import_module(ALGORITHMS[name]), name)(**options)
    pymoo_minimize(problem, algorithm, ("n_gen", 8), seed=5)

    if optimizer._x0_pending:  # DIRECT's first point is the middle of the box
        optimizer.tell(optimizer.ask(1), np.zeros(1))
    ours = []
    while len(ours) < len(problem.seen):
        X = optimizer.ask(1000)
        optimizer.tell(X, ((X - 0.2) ** 2).sum(axis=1))
        ours.extend(X)
    assert np.array_equal(ours[: len(problem.seen)], problem.seen)


def test_cmaes_equals_pymoos_own_fed_the_same_normals():
    generator = np.random.default_rng(np.random.SeedSequence([5, 1]))
    cmaes = importlib.import_module(ALGORITHMS["CMAES"]).CMAES

    class Quiet(cmaes):
        def _setup(self, problem, **kwargs):
            super()._setup(problem, **kwargs)
            self.options["seed"] = np.nan

    algorithm = Quiet(x0=X0, sigma=0.1, randn=lambda *shape: generator.standard_normal(shape))
    problem = PymooSphere()
    pymoo_minimize(problem, algorithm, ("n_gen", 20), seed=5)
    ours = Sphere()
    minimize(ours, "pymoo:CMAES", len(problem.seen) + 1, seed=5)
    assert np.array_equal(ours.seen[: len(problem.seen)], problem.seen)


def test_its_own_end_is_a_reason():
    result = minimize(Sphere(), "pymoo:CMAES", 5000)
    assert result.stop_reason == "pymoo:CMAES has come to its own end"
    assert result.evaluations < 5000


def test_start_is_normal_about_x0_clipped():
    lower, upper = np.array([-1.0, -9, -9, -9]), np.array([1.0, 9, 9, 9])
    sigma = np.array([2.0, 0.1, 1.0, 3.0])
    settings = {"dimension": 4, "x0": X0, "bounds": (lower, upper), "sigma": sigma, "horizon": 1000}
    X = PymooOptimizer("GA", pop_size=1000).setup(**settings).ask(1000)
    assert np.array_equal(X[0], X0)
    assert (lower <= X).all() and (upper >= X).all()
    # The standard error of a standard deviation of 1,000 normals is 2.2 %; these are five of them.
    assert np.allclose(X[:, 1:].std(axis=0), sigma[1:], rtol=0.11)
    assert ((X[:, 0] == 1) | (X[:, 0] == -1)).mean() > 0.5


def test_unbounded_coordinates_get_a_box():
    space = SearchSpace.build(2, np.array([1.0, 2.0]), ([-np.inf, 0], np.inf), np.array([1.0, 3.0]))
    lower, upper = finite_box(space)
    assert (lower.tolist(), upper.tolist()) == ([-9.0, 0.0], [11.0, 32.0])
    problem = Sphere()
    problem.bounds = None
    assert minimize(problem, "pymoo:PSO", 500).loss < 0.2


def test_a_covariance_that_does_not_fit_is_refused_with_what_does():
    settings = {"dimension": 500_000, "x0": 0.0, "bounds": (-5, 5), "sigma": 1.0, "horizon": 10}
    with pytest.raises(MemoryError, match=r"pymoo:CMAES keeps full 500,000.*use the option CMA_diagonal=True"):
        PymooOptimizer("CMAES").setup(**settings)
    assert PymooOptimizer("CMAES", CMA_diagonal=True).setup(**settings).ask(1).shape == (1, 500_000)


def test_steps_of_cmaes_are_per_coordinate():
    sigma = np.array([0.01, 0.1, 1.0, 0.1])
    settings = {"dimension": 4, "x0": 0.0, "bounds": (-5, 5), "sigma": sigma, "horizon": 1000}
    optimizer = PymooOptimizer("CMAES", pop_size=500).setup(**settings)
    optimizer.tell(optimizer.ask(1), np.zeros(1))
    assert np.allclose(optimizer.ask(500).std(axis=0), sigma, rtol=0.16)


def test_nelder_mead_goes_on_where_the_simplex_is_a_point():
    problem = Sphere()
    assert minimize(problem, "pymoo:NelderMead", 1500).evaluations == 1500


@pytest.mark.parametrize("name", ["CMAES", "BIPOPCMAES"])
def test_cmaes_goes_on_where_only_x0_is_finite(name):
    class OnlyX0(Sphere):
        def evaluate(self, X):
            losses = super().evaluate(X)
            return np.where((X == X0).all(axis=1), losses, np.nan)

    problem = OnlyX0()
    result = minimize(problem, PymooOptimizer(name), 300, seed=0)
    assert result.evaluations == 300
    assert np.array_equal(result.x, X0)
    distances = np.linalg.norm(np.array(problem.seen) - X0, axis=1)
    assert np.median(distances[-50:]) < 0.5 * np.median(distances[1:51])


@pytest.mark.parametrize("name", ["DE", "CMAES"])
def test_what_is_not_finite_is_told_as_the_problems_penalty_or_worse(name):
    optimizer = small(name).setup(dimension=4, x0=X0, bounds=(-5, 5), sigma=1.0, horizon=100)
    optimizer.penalty = 7.0
    X = np.zeros((3, 4))
    assert optimizer._told(X, np.array([1.0, np.inf, 3.0])).tolist() == [1, 7, 3]
    assert optimizer._told(X, np.array([1.0, np.inf, 9.0])).tolist() == [1, 9, 9]
