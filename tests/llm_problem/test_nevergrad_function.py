"""The Nevergrad face: a script with any of its optimizers runs on it unchanged."""

import pickle

import nevergrad as ng
import numpy as np
import pytest

import llm_problem as lp
from llm_problem.nevergrad_function import NevergradFunction

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)


@pytest.fixture(scope="module")
def problem(small_pair, label_task):
    return lp.Problem(small_pair("llama"), label_task, SUBSPACE)


@pytest.fixture(scope="module")
def f(problem):
    return problem.to_nevergrad()


def test_it_is_the_problems_loss_as_a_python_float(f, problem, points):
    for x in points(3, problem.dimension):
        assert type(f(x)) is float
        assert f(x) == problem(x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_the_penalty_as_a_python_float(f, problem, bad):
    value = f(np.full(problem.dimension, bad))
    assert type(value) is float
    assert value == problem.penalty


def test_minus_infinity_is_not_the_best(f, problem, monkeypatch):
    F = np.array([[-np.inf]])
    monkeypatch.setattr(problem, "evaluate_all", lambda X: (F, np.empty((1, 0)), ["non-finite"]), raising=False)
    assert f(problem.x0) == problem.penalty


def test_another_shape_is_refused(f):
    with pytest.raises(ValueError, match=r"x must have shape \(16,\), got \(15,\)"):
        f(np.zeros(15))


def test_parametrization_starts_at_the_pretrained_model(f, problem):
    np.testing.assert_array_equal(f.parametrization.value, problem.x0)
    assert f.dimension == problem.dimension


def test_samples_are_spread_by_sigma(f):
    f.parametrization.random_state.seed(0)
    samples = np.array([f.parametrization.sample().value for _ in range(200)])
    assert samples.std() == pytest.approx(1, abs=0.05)
    assert abs(samples.mean()) < 0.05


@pytest.mark.parametrize("name", ["RandomSearch", "DE", "TwoPointsDE", "PSO"])
def test_optimizers_start_with_steps_of_about_sigma(name, problem):
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(1)
    optimizer = ng.optimizers.registry[name](f.parametrization, budget=400, num_workers=40)
    asked = np.array([optimizer.ask().value for _ in range(30)])
    assert 0.7 < asked.std() < 1.4  # uniform over the box would be 2.9
    assert np.abs(asked).max() <= 5


def test_values_stay_inside_the_bounds(f, problem):
    child = f.parametrization.spawn_child()
    child.set_standardized_data(np.full(problem.dimension, 50.0))
    assert (np.abs(child.value) <= 5).all()


def test_copies_are_equivalent_and_share_the_problem(f):
    copied = f.copy()
    assert copied.equivalent_to(f)
    assert copied is not f
    assert copied.problem is f.problem
    assert copied.parametrization is not f.parametrization


def test_other_problems_are_not_equivalent(f, small_pair, label_task, text_task):
    others = [
        lp.Problem(small_pair("qwen2"), label_task, SUBSPACE),
        lp.Problem(small_pair("llama"), text_task, SUBSPACE),
        lp.Problem(small_pair("llama"), label_task, SUBSPACE, seed=1),
        lp.Problem(small_pair("llama"), label_task, lp.subspaces.RandomSubspace(16, layers=2)),
    ]
    for other in others:
        assert other.dimension == f.dimension
        assert not other.to_nevergrad().equivalent_to(f)
    same = lp.Problem(small_pair("llama"), label_task, SUBSPACE)
    assert same.to_nevergrad().equivalent_to(f)


def test_descriptors_are_plain_scalars_that_tell_problems_apart(f, problem):
    assert all(type(value) in (str, int, float, bool) for value in f.descriptors.values())
    assert f.descriptors["problem"] == problem.name
    assert problem.fingerprint.startswith(f.descriptors["fingerprint"])


@pytest.mark.parametrize("name", ["NGOpt", "OnePlusOne", "TwoPointsDE", "PSO", "RandomSearch"])
def test_an_optimizer_runs_its_budget(name, problem):
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(3)
    optimizer = ng.optimizers.registry[name](f.parametrization, budget=30)
    recommended = optimizer.minimize(f)
    assert optimizer.num_tell == 30
    assert np.isfinite(f(recommended.value))


def test_a_run_with_one_seed_repeats(problem):
    def run():
        f = problem.to_nevergrad()
        f.parametrization.random_state.seed(5)
        losses = []
        optimizer = ng.optimizers.TwoPointsDE(f.parametrization, budget=40)
        optimizer.minimize(lambda x: losses.append(f(x)) or losses[-1])
        return losses

    assert run() == run()


def test_several_objectives_are_an_array(problem):
    f = problem.to_nevergrad(objectives=("loss", "error"))
    value = f(problem.x0)
    metrics = problem.metrics(problem.x0, "search")
    np.testing.assert_array_equal(value, [metrics["loss"], metrics["error"]])
    assert (f(np.full(problem.dimension, np.nan)) == problem.penalty).all()
    f.parametrization.random_state.seed(0)
    optimizer = ng.optimizers.DE(f.parametrization, budget=30)
    optimizer.minimize(f)
    assert len(optimizer.pareto_front()) >= 1
    assert f.copy().equivalent_to(f)
    assert not f.equivalent_to(problem.to_nevergrad())


def test_naming_the_problems_own_objectives_is_the_same_function(f, problem):
    assert problem.to_nevergrad(objectives=["loss"]).equivalent_to(f)


def test_pickle_is_light_and_evaluates_equal(tiny_gpt2, text_task):
    problem = lp.Problem("tiny-gpt2", text_task, SUBSPACE)
    f = problem.to_nevergrad()
    data = pickle.dumps(f)
    assert len(data) < 40_000
    twin = pickle.loads(data)
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    assert twin(x) == f(x)
    assert twin.equivalent_to(f)


def test_it_is_an_experiment_function(f):
    assert isinstance(f, NevergradFunction)
    assert isinstance(f, ng.functions.ExperimentFunction)
