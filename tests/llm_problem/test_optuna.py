"""The face of Optuna: its loops run on it, and a study's values are the problem's."""

import copy
import pickle
import sys
import warnings

import numpy as np
import optuna
import pytest

import llm_problem as lp

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)
TPE, RANDOM, NSGA2 = optuna.samplers.TPESampler, optuna.samplers.RandomSampler, optuna.samplers.NSGAIISampler


@pytest.fixture(scope="module")
def problem(small_pair, label_task):
    return lp.Problem(small_pair("llama"), label_task, SUBSPACE)


@pytest.fixture(scope="module")
def constrained(small_pair, text_task):
    return lp.Problem(small_pair("gpt2"), text_task, SUBSPACE, constraints={"norm": 1.3, "drift": 10.0})


@pytest.fixture
def calls(problem, monkeypatch):
    """How many points each call of the model had."""
    sizes, right = [], problem.evaluate_all
    monkeypatch.setattr(problem, "evaluate_all", lambda X: sizes.append(len(X)) or right(X), raising=False)
    return sizes


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def matrix(trials):
    """The points (n, d) of trials, by their parameters' names."""
    return np.array([[trial.params[f"x{i}"] for i in range(len(trial.params))] for trial in trials])


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_studys_values_are_the_problems(problem, jobs):
    objective = problem.to_optuna()
    study = optuna.create_study(sampler=TPE(seed=0))
    study.enqueue_trial(objective.start)
    study.optimize(objective, n_trials=15, n_jobs=jobs)
    X = matrix(study.trials)
    assert X.shape == (15, problem.dimension)
    np.testing.assert_array_equal([trial.value for trial in study.trials], problem.evaluate(X))
    assert study.best_value == problem.evaluate(X).min()
    np.testing.assert_array_equal(X[0], problem.x0)
    np.testing.assert_array_equal(objective.x(study.best_params), X[study.best_trial.number])
    assert problem(objective.x(study.best_trial)) == study.best_value


def test_distributions_are_the_bounds(problem):
    objective = problem.to_optuna()
    assert list(objective.distributions) == [f"x{i}" for i in range(problem.dimension)]
    bounds = np.array([[each.low, each.high] for each in objective.distributions.values()]).T
    np.testing.assert_array_equal(bounds, problem.bounds)
    assert objective.directions == ["minimize"]
    assert objective.constraints_func is None


def test_reach_narrows_them(problem):
    objective = problem.to_optuna(reach=2)
    assert {(each.low, each.high) for each in objective.distributions.values()} == {(-2.0, 2.0)}
    wide = problem.to_optuna(reach=9).distributions["x0"]
    assert (wide.low, wide.high) == (-5.0, 5.0)
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="reach must be a finite number above 0"):
            problem.to_optuna(reach=bad)


def test_ask_and_tell_evaluates_a_batch_by_one_call(problem, calls):
    objective = problem.to_optuna()
    study = optuna.create_study(sampler=RANDOM(seed=3))
    for _ in range(3):
        trials = [study.ask(objective.distributions) for _ in range(4)]
        losses = objective.at_all(trials)
        assert all(type(loss) is float for loss in losses)
        for trial, loss in zip(trials, losses, strict=True):
            study.tell(trial, loss)
    assert calls == [4, 4, 4]
    np.testing.assert_array_equal([trial.value for trial in study.trials], problem.evaluate(matrix(study.trials)))
    assert objective.at_all([]) == []


def test_a_trial_without_parameters_gets_them(problem):
    objective = problem.to_optuna()
    study = optuna.create_study(sampler=RANDOM(seed=3))
    trial = study.ask()
    x = objective.x(trial)
    np.testing.assert_array_equal(x, matrix([trial])[0])
    assert objective(trial) == problem(x)


def test_points_and_parameters_are_each_others(problem, points):
    objective = problem.to_optuna()
    x = points(2, problem.dimension)[1]
    params = objective.params(x)
    assert all(type(value) is float for value in params.values())
    np.testing.assert_array_equal(objective.x(params), x)
    assert objective(optuna.trial.FixedTrial(params)) == problem(x)
    del params["x3"]
    with pytest.raises(ValueError, match="x3 is missing"):
        objective.x(params)
    with pytest.raises(ValueError, match=r"x must have shape \(16,\), got \(2,\)"):
        objective.params([1, 2])


def test_what_is_not_finite_is_the_penalty_and_no_failed_trial(problem, monkeypatch):
    right = problem.evaluate_all

    def spoilt(X):
        F, G, status = right(X)
        bad = X[:, 0] > 0
        F[bad] = np.nan
        return F, G, np.where(bad, "non-finite", status)

    monkeypatch.setattr(problem, "evaluate_all", spoilt, raising=False)
    study = optuna.create_study(sampler=RANDOM(seed=0))
    study.optimize(problem.to_optuna(), n_trials=12)
    bad = matrix(study.trials)[:, 0] > 0
    assert 0 < bad.sum() < 12
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    np.testing.assert_array_equal([trial.value == problem.penalty for trial in study.trials], bad)
    np.testing.assert_array_equal([trial.user_attrs.get("status") == "non-finite" for trial in study.trials], bad)


@pytest.mark.parametrize("sampler", [TPE, NSGA2], ids=lambda cls: cls.__name__)
def test_constraints_are_optunas(constrained, sampler):
    objective = constrained.to_optuna(reach=2)
    study = optuna.create_study(sampler=sampler(seed=1))
    study.enqueue_trial(objective.start)
    study.optimize(objective, n_trials=25)
    X = matrix(study.trials)
    F, G, _ = constrained.evaluate_all(X)
    feasible = (G <= 0).all(axis=1)
    assert 1 < feasible.sum() < 25
    np.testing.assert_array_equal([list(trial.constraints.values()) for trial in study.trials], G)
    assert list(study.trials[0].constraints) == [quantity for quantity, _ in constrained.constraints]
    np.testing.assert_array_equal([objective.constraints_func(trial) for trial in study.trials], G)
    assert study.best_value == F[feasible, 0].min()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert objective(study.best_trial) == study.best_value


def test_the_constraints_func_of_older_samplers(constrained):
    objective = constrained.to_optuna(reach=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental in Optuna 4, on its way out in 5
        sampler = TPE(seed=1, n_startup_trials=5, constraints_func=objective.constraints_func)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=15)
    assert {trial.state for trial in study.trials} == {optuna.trial.TrialState.COMPLETE}
    _, G, _ = constrained.evaluate_all(objective.x(study.best_trial)[None])
    assert (G <= 0).all()


def test_several_objectives(problem):
    objective = problem.to_optuna(objectives=("loss", "norm"), reach=2)
    assert problem.objectives == ("loss",)
    study = optuna.create_study(directions=objective.directions, sampler=NSGA2(seed=1, population_size=8))
    study.enqueue_trial(objective.start)
    study.optimize(objective, n_trials=30)
    X = matrix(study.trials)
    F, _, _ = objective.problem.evaluate_all(X)
    np.testing.assert_array_equal([trial.values for trial in study.trials], F)
    front = {trial.number for trial in study.best_trials}
    better = [((F - losses) <= 0).all(axis=1) & ((F - losses) < 0).any(axis=1) for losses in F]
    assert front == {number for number, by in enumerate(better) if not by.any()}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_and_pickles_are_light_and_equal(text_task, duplicate, points):
    objective = lp.Problem("tiny-gpt2", text_task, SUBSPACE).to_optuna(reach=3)
    twin = duplicate(objective)
    assert twin.distributions == objective.distributions
    x = points(2, objective.problem.dimension)[1]
    trial = optuna.trial.FixedTrial(objective.params(x))
    assert twin(trial) == objective(trial)
    assert len(pickle.dumps(objective)) < 20_000


def test_without_optuna_the_error_is_the_pip_line(problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna.distributions", None)
    monkeypatch.delitem(sys.modules, "llm_problem.optuna_objective", raising=False)
    with pytest.raises(ImportError, match="pip install optuna"):
        problem.to_optuna()
