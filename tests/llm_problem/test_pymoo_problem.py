"""The pymoo face: a script with any of its algorithms runs on it unchanged."""

import copy
import pickle

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.algorithms.soo.nonconvex.nelder import NelderMead
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.operators.sampling.rnd import FloatRandomSampling
from pymoo.optimize import minimize

import llm_problem as lp

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)


@pytest.fixture(scope="module")
def problem(small_pair, label_task):
    return lp.Problem(small_pair("llama"), label_task, SUBSPACE)


@pytest.fixture
def face(problem):
    return problem.to_pymoo()


def test_it_is_the_problems_loss_for_a_whole_population(face, problem, points):
    X = points(5, problem.dimension)
    F = face.evaluate(X)
    assert F.shape == (5, 1)
    np.testing.assert_array_equal(F[:, 0], problem.evaluate(X))
    np.testing.assert_array_equal(face.evaluate(X[2]), [problem(X[2])])


def test_what_it_says_of_its_space(face, problem):
    assert (face.n_var, face.n_obj, face.n_constr) == (problem.dimension, 1, 0)
    np.testing.assert_array_equal(face.bounds(), problem.bounds)
    assert face.name() == problem.name
    assert not face.elementwise


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_the_penalty(face, problem, bad, points):
    X = points(3, problem.dimension)
    expected = problem.evaluate(X)
    X[1] = bad
    np.testing.assert_array_equal(face.evaluate(X)[:, 0], [expected[0], problem.penalty, expected[2]])


@pytest.mark.parametrize("algorithm", [PSO, DE, GA], ids=lambda cls: cls.__name__)
def test_one_evaluation_call_a_generation(algorithm, face, monkeypatch):
    sizes = []
    right = face._evaluate
    monkeypatch.setattr(face, "_evaluate", lambda X, out, *a, **k: sizes.append(len(X)) or right(X, out, *a, **k))
    result = minimize(face, algorithm(pop_size=8), ("n_gen", 4), seed=1)
    assert sizes == [8, 8, 8, 8]
    assert result.F[0] == pytest.approx(face.problem(result.X))
    assert np.isfinite(result.F).all()
    assert (np.abs(result.X) <= 5).all()


@pytest.mark.parametrize("algorithm", [PSO, DE, GA], ids=lambda cls: cls.__name__)
def test_with_its_own_sampling_a_run_is_never_worse_than_the_pretrained_model(algorithm, face):
    result = minimize(face, algorithm(pop_size=8, sampling=face.sampling), ("n_gen", 3), seed=2)
    assert result.F[0] <= face.problem(face.problem.x0)


def test_an_algorithm_that_asks_for_single_points_runs(face):
    result = minimize(face, NelderMead(x0=face.problem.x0), ("n_eval", 30), seed=1)
    assert np.isfinite(result.F).all()


def test_a_run_with_one_seed_repeats(face):
    runs = [minimize(face, DE(pop_size=8, sampling=face.sampling), ("n_gen", 4), seed=7) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].X, runs[1].X)
    np.testing.assert_array_equal(runs[0].F, runs[1].F)


def test_sampling_starts_at_the_pretrained_model_and_is_spread_by_sigma(face):
    X = face.sampling.do(face, 200, random_state=np.random.default_rng(0)).get("X")
    np.testing.assert_array_equal(X[0], face.problem.x0)
    assert X[1:].std() == pytest.approx(1, abs=0.05)
    assert (np.abs(X) <= 5).all()
    uniform = FloatRandomSampling().do(face, 200, random_state=np.random.default_rng(0)).get("X")
    assert uniform.std() > 2.8  # what pymoo would do by itself


def test_both_faces_have_the_same_bounds_start_and_spread(face, problem):
    nevergrad = problem.to_nevergrad().parametrization
    np.testing.assert_array_equal(np.stack(face.bounds()), np.stack(nevergrad.bounds))
    np.testing.assert_array_equal(face.sampling.x0, nevergrad.value)
    assert face.sampling.sigma == nevergrad.sigma.value == problem.sigma
    nevergrad.random_state.seed(0)
    theirs = np.array([nevergrad.sample().value for _ in range(300)])
    ours = face.sampling.do(face, 301, random_state=np.random.default_rng(0)).get("X")[1:]
    assert ours.std() == pytest.approx(theirs.std(), rel=0.05)


def test_sampling_stays_inside_narrow_bounds(face):
    face.xl, face.xu = -0.1 * np.ones(face.n_var), 0.1 * np.ones(face.n_var)
    X = face.sampling.do(face, 50, random_state=np.random.default_rng(0)).get("X")
    assert np.abs(X).max() == 0.1


def test_sampling_follows_the_seed(face):
    draws = [face.sampling.do(face, 5, random_state=np.random.default_rng(seed)).get("X") for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])


def test_history_shares_the_model(face):
    result = minimize(face, PSO(pop_size=6), ("n_gen", 4), seed=1, save_history=True)
    assert len(result.history) == 4
    assert all(step.problem.problem.model is face.problem.model for step in result.history)
    assert [step.opt[0].F[0] for step in result.history] == sorted(
        (step.opt[0].F[0] for step in result.history), reverse=True
    )


def test_deepcopy_shares_the_model_and_evaluates(face, points):
    twin = copy.deepcopy(face)
    X = points(2, face.n_var)
    assert twin.problem.model is face.problem.model
    np.testing.assert_array_equal(twin.evaluate(X), face.evaluate(X))


def test_pickle_is_light_and_evaluates_equal(tiny_gpt2, text_task, points):
    face = lp.Problem("tiny-gpt2", text_task, SUBSPACE).to_pymoo()
    data = pickle.dumps(face)
    assert len(data) < 20_000
    X = points(2, face.n_var)
    np.testing.assert_array_equal(pickle.loads(data).evaluate(X), face.evaluate(X))


def test_several_objectives(problem, points):
    face = problem.to_pymoo(objectives=("loss", "error"))
    X = points(3, problem.dimension)
    expected = [[metrics["loss"], metrics["error"]] for metrics in (problem.metrics(x, "search") for x in X)]
    np.testing.assert_array_equal(face.evaluate(X), expected)
    assert face.problem.model is problem.model
    assert problem.objectives == ("loss",)
    result = minimize(face, NSGA2(pop_size=8, sampling=face.sampling), ("n_gen", 4), seed=1)
    assert result.F.shape[1] == 2
    assert len(np.unique(result.F, axis=0)) >= 1


def test_a_spoilt_start_does_not_hang_or_win(problem, monkeypatch):
    face = problem.to_pymoo()
    right = problem.evaluate_all

    def spoilt(X):
        F, G, status = right(X)
        F[X[:, 0] > 0] = -np.inf
        F[X[:, 1] > 0] = np.nan
        return F, G, status

    monkeypatch.setattr(problem, "evaluate_all", spoilt, raising=False)
    result = minimize(face, PSO(pop_size=8), ("n_gen", 4), seed=1)
    assert np.isfinite(result.F[0])
    assert result.F[0] < problem.penalty
