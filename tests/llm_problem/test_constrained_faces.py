"""Constraints and fronts through the two faces: ordinary Nevergrad and pymoo scripts, each point evaluated once."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import nevergrad as ng
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.optimize import minimize

import llm_problem as lp

LIMIT = 0.01  # on drift; most of N(0, I) is beyond it
SUBSPACE = lp.subspaces.LoRAXS(4, layers=1)
TASK = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)


@pytest.fixture(scope="module")
def problem(tiny_gpt2):
    return lp.Problem(tiny_gpt2, TASK, SUBSPACE, constraints={"drift": LIMIT, "norm": 4})


@pytest.fixture
def evaluated(problem, monkeypatch):
    """The points that the problem was asked for."""
    seen, right = [], problem.evaluate_all
    monkeypatch.setattr(problem, "evaluate_all", lambda X: seen.extend(X) or right(X), raising=False)
    return seen


def assert_a_front(F, problem):
    """F (n, 2), no row dominating another."""
    F = np.unique(F, axis=0)
    assert len(F) >= 10
    assert np.isfinite(F).all()
    assert (np.diff(F[:, 0]) > 0).all()
    assert (np.diff(F[:, 1]) < 0).all()
    assert F[:, 0].min() < problem.evaluate(problem.x0[None])[0]


# pymoo


def test_pymoo_gets_g(problem, points):
    face = problem.to_pymoo()
    X = points(4, problem.dimension)
    X[3] = np.nan
    F, G, _ = problem.evaluate_all(X)
    out = face.evaluate(X, return_as_dictionary=True)
    assert (face.n_obj, face.n_ieq_constr) == (1, 2)
    np.testing.assert_array_equal(out["F"][:3], F[:3])
    np.testing.assert_array_equal(out["G"][:3], G[:3])
    assert out["F"][3] == problem.penalty
    assert (out["G"][3] > 1e6).all()  # behind whatever has a loss


@pytest.mark.parametrize("algorithm", [GA, DE], ids=lambda cls: cls.__name__)
def test_pymoo_finds_a_feasible_point(problem, algorithm):
    face = problem.to_pymoo()
    result = minimize(face, algorithm(pop_size=10, sampling=face.sampling), ("n_gen", 15), seed=1)
    _, G, _ = problem.evaluate_all(result.X[None])
    assert (G <= 0).all()
    assert result.F[0] < problem(problem.x0)


def test_nsga2_gives_a_front(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, TASK, SUBSPACE)
    face = problem.to_pymoo(objectives=("loss", "drift"))
    result = minimize(face, NSGA2(pop_size=24, sampling=face.sampling), ("n_gen", 20), seed=1)
    assert_a_front(result.F, problem)
    again, _, _ = lp.Problem(tiny_gpt2, TASK, SUBSPACE, objectives=("loss", "drift")).evaluate_all(result.X)
    np.testing.assert_array_equal(again, result.F)


def test_nsga2_keeps_to_a_limit_on_what_it_minimises(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, TASK, SUBSPACE, objectives=("loss", "drift"), constraints={"drift": LIMIT})
    face = problem.to_pymoo()
    result = minimize(face, NSGA2(pop_size=24, sampling=face.sampling), ("n_gen", 15), seed=1)
    assert len(result.F) > 3
    assert result.F[:, 1].max() <= LIMIT


# Nevergrad


def test_without_constraints_there_are_no_violations(tiny_gpt2):
    assert lp.Problem(tiny_gpt2, TASK, SUBSPACE).to_nevergrad().constraint_violations == []


def test_violations_are_the_constraints(problem, points):
    f = problem.to_nevergrad()
    assert len(f.constraint_violations) == 2
    for x in points(3, problem.dimension):
        found = [violation(x) for violation in f.constraint_violations]
        assert all(type(value) is float for value in found)
        assert found == problem.evaluate_all(x[None])[1][0].tolist()
    bad = np.full(problem.dimension, np.nan)
    assert f(bad) == problem.penalty
    assert min(violation(bad) for violation in f.constraint_violations) > 1e6
    with pytest.raises(ValueError, match=r"x must have shape \(32,\), got \(15,\)"):
        f.constraint_violations[0](np.zeros(15))


@pytest.mark.parametrize("workers", [1, 7])
@pytest.mark.parametrize("name", ["OnePlusOne", "DE", "TwoPointsDE", "CMA"])
def test_nevergrad_evaluates_each_point_once_and_recommends_a_feasible_one(problem, evaluated, name, workers):
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(2)
    optimizer = ng.optimizers.registry[name](f.parametrization, budget=60, num_workers=workers)
    optimizer.suggest(problem.x0)
    if workers == 1:
        recommended = optimizer.minimize(f, constraint_violation=f.constraint_violations)
    else:
        with ThreadPoolExecutor(max_workers=workers) as pool:
            recommended = optimizer.minimize(f, executor=pool, constraint_violation=f.constraint_violations)
    assert optimizer.num_tell == 60
    assert len(evaluated) == len({x.tobytes() for x in evaluated}) <= 60
    if name != "CMA":  # which recommends its mean
        assert max(violation(recommended.value) for violation in f.constraint_violations) <= 0


def test_told_by_hand_an_infeasible_point_is_not_the_best(problem):
    f = problem.to_nevergrad()
    optimizer = ng.optimizers.OnePlusOne(f.parametrization, budget=10)
    far = optimizer.parametrization.spawn_child(new_value=np.full(problem.dimension, 3.0))
    optimizer.tell(far, -1.0, [violation(far.value) for violation in f.constraint_violations])
    start = optimizer.parametrization.spawn_child(new_value=problem.x0)
    optimizer.tell(start, f(problem.x0), [violation(problem.x0) for violation in f.constraint_violations])
    np.testing.assert_array_equal(optimizer.recommend().value, problem.x0)


def test_the_memory_of_points_is_bounded(problem, evaluated, monkeypatch):
    import llm_problem.nevergrad_function as module

    monkeypatch.setattr(module, "REMEMBERED", 3)
    f = problem.to_nevergrad()
    X = np.random.default_rng(0).standard_normal((5, problem.dimension))
    losses = [f(x) for x in X]
    assert len(evaluated) == 5
    for x in X[2:]:
        f.constraint_violations[1](x)
    assert len(evaluated) == 5
    assert f(X[0]) == losses[0]
    assert len(evaluated) == 6


def test_a_caller_cannot_change_what_is_remembered(tiny_gpt2, points):
    problem = lp.Problem(tiny_gpt2, TASK, SUBSPACE, objectives=("loss", "norm"), constraints={"drift": LIMIT})
    f = problem.to_nevergrad()
    x = points(2, problem.dimension)[1]
    first = f(x)
    expected = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(f(x), expected)


@pytest.mark.parametrize("duplicate", [lambda f: f.copy(), copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_and_pickles_of_a_constrained_function(tiny_gpt2, duplicate, points):
    f = lp.Problem("tiny-gpt2", TASK, SUBSPACE, constraints={"drift": LIMIT}).to_nevergrad()
    x = points(2, f.problem.dimension)[1]
    twin = duplicate(f)
    assert twin(x) == f(x)
    assert twin.constraint_violations[0](x) == f.constraint_violations[0](x)
    assert twin.equivalent_to(f)
    other = lp.Problem("tiny-gpt2", TASK, SUBSPACE, constraints={"drift": 2 * LIMIT}).to_nevergrad()
    assert not other.equivalent_to(f)


def test_nevergrads_de_gives_a_front(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, TASK, SUBSPACE)
    f = problem.to_nevergrad(objectives=("loss", "drift"))
    f.parametrization.random_state.seed(1)
    optimizer = ng.optimizers.DE(f.parametrization, budget=1200)
    optimizer.suggest(problem.x0)
    optimizer.minimize(f)
    front = optimizer.pareto_front()
    assert_a_front(np.array([candidate.losses for candidate in front]), problem)
    np.testing.assert_array_equal(f(front[0].value), front[0].losses)
