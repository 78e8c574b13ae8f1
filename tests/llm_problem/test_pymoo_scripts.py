"""pymoo's usual scripts with only the problem replaced: algorithms, ways to evaluate, histories, operators."""

# ruff: noqa: NPY002 (numpy's legacy generator is what CMAES draws from)

import multiprocessing
from multiprocessing.pool import ThreadPool

import numpy as np
import psutil
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex import pattern
from pymoo.algorithms.soo.nonconvex.brkga import BRKGA
from pymoo.algorithms.soo.nonconvex.cmaes import BIPOPCMAES, CMAES, SimpleCMAES
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.direct import DIRECT
from pymoo.algorithms.soo.nonconvex.es import ES
from pymoo.algorithms.soo.nonconvex.g3pcx import G3PCX
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.algorithms.soo.nonconvex.ga_niching import NicheGA
from pymoo.algorithms.soo.nonconvex.isres import ISRES
from pymoo.algorithms.soo.nonconvex.nelder import NelderMead
from pymoo.algorithms.soo.nonconvex.nrbo import NRBO
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.algorithms.soo.nonconvex.pso_ep import EPPSO
from pymoo.algorithms.soo.nonconvex.random_search import RandomSearch
from pymoo.algorithms.soo.nonconvex.sres import SRES
from pymoo.core.callback import Callback
from pymoo.core.evaluator import Evaluator
from pymoo.core.individual import Individual
from pymoo.core.population import Population
from pymoo.operators.crossover.pntx import PointCrossover
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.gauss import GaussianMutation
from pymoo.operators.mutation.pm import PM
from pymoo.operators.sampling.lhs import LHS
from pymoo.operators.sampling.rnd import FloatRandomSampling
from pymoo.optimize import minimize
from pymoo.parallelization.joblib import JoblibParallelization
from pymoo.parallelization.starmap import StarmapParallelization

import llm_problem as lp
from llm_problem_adapters import minimize as our_minimize
from llm_problem_adapters.pymoo_repeatable import PatternSearch  # pymoo's own draws from a generator without a seed

NAME = "tiny-gpt2-prose-lora-xs-d32-v1"
ALGORITHMS = {
    "GA": lambda: GA(pop_size=8),
    "DE": lambda: DE(pop_size=8),
    "PSO": lambda: PSO(pop_size=8),
    "CMAES": lambda: CMAES(x0=np.zeros(32), sigma=0.1, restarts=0),
    "ES": lambda: ES(n_offsprings=20, pop_size=5),
    "NelderMead": NelderMead,
    "PatternSearch": PatternSearch,
    "DIRECT": DIRECT,
    "NSGA2": lambda: NSGA2(pop_size=8),
}
# The others that pymoo's own tests put through Sphere.
OTHERS = {
    "BIPOPCMAES": lambda: BIPOPCMAES(x0=np.zeros(32), sigma=0.1),
    "BRKGA": lambda: BRKGA(n_elites=4, n_offsprings=10, n_mutants=2),
    "EPPSO": lambda: EPPSO(pop_size=8),
    "G3PCX": lambda: G3PCX(pop_size=8),
    "ISRES": lambda: ISRES(n_offsprings=20, pop_size=4),
    "NRBO": lambda: NRBO(pop_size=8, max_iteration=5),
    "NicheGA": lambda: NicheGA(pop_size=8),
    "RandomSearch": lambda: RandomSearch(n_points_per_iteration=8),
    "SRES": lambda: SRES(n_offsprings=20, pop_size=4),
    "SimpleCMAES": lambda: SimpleCMAES(x0=np.zeros(32), sigma=0.1),
}
ONE_CALL = ["GA", "DE", "PSO", "CMAES", "ES", "NSGA2"]


@pytest.fixture(scope="module")
def problem():
    return lp.make(NAME)


@pytest.fixture(scope="module")
def threads():
    with ThreadPool(3) as pool:
        yield pool


@pytest.fixture(scope="module")
def overflowing(small_pair, label_task):
    """A problem whose activations overflow where x is not small: half of N(0, I) has no loss."""
    return lp.Problem(small_pair("gpt2"), label_task, lp.subspaces.LoRAXS(2, layers=2, scale=1.5e19))


class Trace(Callback):
    """Every generation's points and losses."""

    def __init__(self):
        super().__init__()
        self.data["X"], self.data["F"] = [], []

    def notify(self, algorithm):
        self.data["X"].append(algorithm.pop.get("X").copy())
        self.data["F"].append(algorithm.pop.get("F").copy())


def trace(face, name, evaluations=40, seed=1, **options):
    np.random.seed(seed)  # CMAES draws from numpy's global generator
    algorithm, callback = {**ALGORITHMS, **OTHERS}[name](), Trace()
    result = minimize(face, algorithm, ("n_eval", evaluations), seed=seed, callback=callback, **options)
    return result, callback.data["X"], callback.data["F"]


def assert_same(one, other):
    for a, b in zip(one[1:], other[1:], strict=True):
        assert len(a) == len(b) > 0
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def objectives(name):
    return {"objectives": ("loss", "drift")} if name == "NSGA2" else {}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_item_6_vectorised_elementwise_starmap_and_joblib_agree_bitwise(name, problem, threads):
    runners = {
        "elementwise": {"elementwise": True},
        "starmap": {"elementwise_runner": StarmapParallelization(threads.starmap)},
        "joblib": {"elementwise_runner": JoblibParallelization(n_jobs=2, backend="threading")},
    }
    whole = trace(problem.to_pymoo(**objectives(name)), name)
    assert np.isfinite(np.concatenate(whole[2])).all()
    for options in runners.values():
        face = problem.to_pymoo(**objectives(name), **options)
        assert face.elementwise
        assert_same(whole, trace(face, name))


def test_item_6_pymoos_own_pattern_search(problem):
    """It draws from a generator without a seed, so that no two of its runs can be compared."""
    result = minimize(problem.to_pymoo(), pattern.PatternSearch(x0=np.zeros(32)), ("n_eval", 40), seed=1)
    assert result.algorithm.evaluator.n_eval >= 40
    assert result.F[0] == problem(result.X) <= problem(problem.x0)


def one_thread():
    import torch

    torch.set_num_threads(1)


def test_item_6_processes_agree_bitwise_too(problem):
    whole = trace(problem.to_pymoo(), "DE", 24)
    with multiprocessing.get_context("spawn").Pool(1, initializer=one_thread) as pool:
        face = problem.to_pymoo(elementwise_runner=StarmapParallelization(pool.starmap))
        assert_same(whole, trace(face, "DE", 24))


def test_item_6_with_constraints(tiny_gpt2, threads):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    problem = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), constraints={"norm": 1, "drift": 0.1})
    X = np.random.default_rng(0).standard_normal((4, 32))
    X[2] = np.nan
    expected = problem.to_pymoo().evaluate(X, return_as_dictionary=True)
    for options in ({"elementwise": True}, {"elementwise_runner": StarmapParallelization(threads.starmap)}):
        found = problem.to_pymoo(**options).evaluate(X, return_as_dictionary=True)
        for key in ("F", "G"):
            np.testing.assert_array_equal(found[key], expected[key])


@pytest.mark.parametrize("name", ONE_CALL)
def test_item_6_one_call_a_generation(name, problem, monkeypatch):
    face, sizes = problem.to_pymoo(**objectives(name)), []
    right = lp.Problem.evaluate_all
    monkeypatch.setattr(lp.Problem, "evaluate_all", lambda self, X: sizes.append(len(X)) or right(self, X))
    result, X, _ = trace(face, name)
    assert len(sizes) == len(X)
    assert sum(sizes) == result.algorithm.evaluator.n_eval


def test_item_6_a_runner_that_would_not_run_is_refused(problem, threads):
    with pytest.raises(ValueError, match="runs elementwise only"):
        problem.to_pymoo(elementwise=False, elementwise_runner=StarmapParallelization(threads.starmap))


@pytest.mark.parametrize("runner", [False, True])
def test_item_7_fifty_generations_of_history_are_less_than_one_model(runner, small_pair, label_task):
    heavy = small_pair("gpt2", n_positions=400_000)  # and as quick as a small one
    problem = lp.Problem(heavy, label_task, lp.subspaces.LoRAXS(2, layers=1))
    one = JoblibParallelization(n_jobs=1) if runner else None
    face = problem.to_pymoo(elementwise_runner=one)
    size = sum(parameter.nbytes for parameter in problem.model.parameters())
    assert size > 40e6
    minimize(face, PSO(pop_size=4), ("n_gen", 2), seed=1, save_history=True)  # what is kept for good is kept now
    before = psutil.Process().memory_info().rss
    result = minimize(face, PSO(pop_size=4), ("n_gen", 50), seed=1, save_history=True)
    assert psutil.Process().memory_info().rss - before < size
    assert len(result.history) == 50
    X = np.random.default_rng(0).standard_normal((2, face.n_var))
    np.testing.assert_array_equal(result.history[-1].problem.evaluate(X), face.evaluate(X))
    assert result.history[0].problem.problem.model is problem.model


@pytest.mark.parametrize("budget", [1, 23, 60])
@pytest.mark.parametrize("name", ["ES", "CMAES", "NelderMead"])
def test_item_9_exactly_n_evaluations(name, budget, problem, monkeypatch):
    points, right = [], lp.Problem.evaluate
    monkeypatch.setattr(lp.Problem, "evaluate", lambda self, X, *a, **k: points.extend(X) or right(self, X, *a, **k))
    result = our_minimize(problem, f"pymoo:{name}", budget=budget, seed=1)
    assert len(points) == result.evaluations == len(result.history) == budget
    np.testing.assert_array_equal(points[0], problem.x0)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"NSGA2", "CMAES"}))
def test_item_10_weights_that_overflow_reach_no_algorithm(name, overflowing):
    result, _, F = trace(overflowing.to_pymoo(), name)
    F = np.concatenate(F)
    assert np.isfinite(F).all()
    assert np.isfinite(result.F).all()
    if name not in ("DIRECT", "NelderMead", "PatternSearch"):  # a few points that they go on from
        assert overflowing.penalty in F


def test_item_10_cmaes_returns(overflowing):
    algorithm = CMAES(x0=overflowing.x0, sigma=0.3, restarts=0)
    result = minimize(overflowing.to_pymoo(), algorithm, ("n_eval", 80), seed=1)
    assert np.isfinite(result.F).all()
    assert result.F[0] < overflowing.penalty


# What pymoo's own tests do with its Sphere.


@pytest.mark.parametrize("name", [*ALGORITHMS, *OTHERS])
def test_item_13_determinism(name, problem):
    first, again, other = (trace(problem.to_pymoo(**objectives(name)), name, seed=seed) for seed in (1, 1, 2))
    assert_same(first, again)
    np.testing.assert_array_equal(first[0].X, again[0].X)
    if name != "DIRECT":  # which draws nothing
        assert not np.array_equal(first[1][-1], other[1][-1])


@pytest.mark.parametrize("name", ["GA", "DE", "PSO", "NelderMead", "RandomSearch"])
def test_item_13_a_run_leaves_its_algorithm_and_problem_as_they_were(name, problem):
    face, algorithm = problem.to_pymoo(), {**ALGORITHMS, **OTHERS}[name]()
    first, again = (minimize(face, algorithm, ("n_eval", 40), seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.X, again.X)
    assert algorithm.problem is None
    assert first.problem.problem is problem


@pytest.mark.parametrize("name", ["GA", "DE", "PSO", "NelderMead"])
def test_item_13_ask_and_tell_is_minimize(name, problem):
    face = problem.to_pymoo()
    whole = trace(face, name)
    algorithm = ALGORITHMS[name]()
    algorithm.setup(face, termination=("n_eval", 40), seed=1)
    while algorithm.has_next():
        infills = algorithm.ask()
        algorithm.evaluator.eval(face, infills)
        algorithm.tell(infills=infills)
    np.testing.assert_array_equal(algorithm.result().X, whole[0].X)
    np.testing.assert_array_equal(algorithm.result().F, whole[0].F)


@pytest.mark.parametrize("elementwise", [False, True])
def test_item_13_evaluator(elementwise, problem, points):
    face, evaluator = problem.to_pymoo(elementwise=elementwise), Evaluator()
    X = points(4, 32)
    expected = problem.evaluate(X)[:, None]
    np.testing.assert_array_equal(face.evaluate(X), expected)
    np.testing.assert_array_equal(face.evaluate(X[0]), expected[0])
    np.testing.assert_array_equal(evaluator.eval(face, Population.new("X", X)).get("F"), expected)
    np.testing.assert_array_equal(evaluator.eval(face, Individual(X=X[1])).F, expected[1])
    assert evaluator.n_eval == 5
    out = face.evaluate(X, return_values_of=["F", "G"], return_as_dictionary=True)
    assert out["G"].shape == (4, 0)
    evaluated = evaluator.eval(face, Population.new("X", X))
    evaluator.eval(face, evaluated)  # nothing in it is evaluated again
    assert evaluator.n_eval == 9


@pytest.mark.parametrize("sampling", [FloatRandomSampling(), LHS()], ids=lambda each: type(each).__name__)
@pytest.mark.parametrize(
    "crossover", [SBX(), PointCrossover(n_points=2), UniformCrossover()], ids=lambda each: type(each).__name__
)
def test_item_13_operators(sampling, crossover, problem):
    face = problem.to_pymoo()
    runs = [
        minimize(
            face, GA(pop_size=8, sampling=sampling, crossover=crossover, mutation=mutation), ("n_gen", 3), seed=seed
        )
        for seed, mutation in ((1, PM()), (1, PM()), (1, GaussianMutation()))
    ]
    np.testing.assert_array_equal(runs[0].X, runs[1].X)
    assert not np.array_equal(runs[0].pop.get("X"), runs[2].pop.get("X"))
    for result in runs:
        assert (np.abs(result.pop.get("X")) <= 5).all()
        np.testing.assert_array_equal(result.pop.get("F")[:, 0], problem.evaluate(result.pop.get("X")))
