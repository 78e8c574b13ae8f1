"""The face of IOHexperimenter: its loops and loggers run on it, and what they write is what the problem says."""

import copy
import gc
import json
import pickle
import re
import sys
import weakref

import ioh
import numpy as np
import pytest

import llm_problem as lp

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)
NAMED = "tiny-gpt2-prose-lora-xs-d32-v1"


@pytest.fixture(scope="module")
def problem(small_pair, label_task):
    return lp.Problem(small_pair("llama"), label_task, SUBSPACE)


@pytest.fixture(scope="module")
def constrained(small_pair, text_task):
    return lp.Problem(small_pair("gpt2"), text_task, SUBSPACE, constraints={"norm": 0.5, "drift": 10.0})


@pytest.fixture(scope="module")
def named():
    return lp.make(NAMED, instance=2)


def test_it_is_a_real_problem_of_ioh_and_says_what_it_is(named):
    f = named.to_ioh()
    assert isinstance(f, ioh.problem.RealSingleObjective)
    meta = f.meta_data
    assert (meta.name, meta.n_variables, meta.instance) == (NAMED, 32, 2)
    assert meta.optimization_type == ioh.OptimizationType.MIN
    np.testing.assert_array_equal([f.bounds.lb, f.bounds.ub], named.bounds)
    assert f.optimum.y == -np.inf and np.isnan(f.optimum.x).all()
    assert f.constraints.n() == 0


def test_a_point_is_a_float_and_a_population_one_call_of_the_model(problem, points, monkeypatch):
    X = points(5, problem.dimension)
    expected, calls, right = problem.evaluate(X), [], problem.evaluate_all
    monkeypatch.setattr(problem, "evaluate_all", lambda X: calls.append(len(X)) or right(X), raising=False)
    f = problem.to_ioh()
    assert type(f(X[1])) is float
    assert f(X[2].tolist()) == expected[2]
    np.testing.assert_array_equal(f(X), expected)
    assert calls == [1, 1, 5]
    assert f.state.evaluations == 7
    assert f.state.current_best.y == expected.min()
    np.testing.assert_array_equal(f.state.current_best.x, X[expected.argmin()])
    assert f.evaluate(X[3]) == expected[3]


def test_no_loss_is_taken_for_the_optimum(problem, points):
    """A loop until `final_target_found`, which ioh's suites are run with, must not end at the first point."""
    f = problem.to_ioh()
    f.set_final_target(1e6)
    f(points(6, problem.dimension))
    assert not f.state.optimum_found and not f.state.final_target_found


def random_search(f, seed):
    """The loop of ioh's tutorials."""
    rng = np.random.default_rng(seed)
    while f.state.evaluations < 20:
        f(rng.uniform(f.bounds.lb, f.bounds.ub))


def test_what_the_analyzer_writes_is_what_the_problem_says(problem, tmp_path):
    f = problem.to_ioh(instance=3, name="my-problem")
    logger = ioh.logger.Analyzer(root=str(tmp_path), folder_name="runs", algorithm_name="random search")
    logger.full_precision = True
    f.attach_logger(logger)
    best = []
    for seed in (0, 1):
        random_search(f, seed)
        best.append(f.state.current_best.y)
        f.reset()
        assert f.state.evaluations == 0
    f.detach_logger()
    logger.close()

    (info,) = (tmp_path / "runs").glob("*.json")
    written = json.loads(info.read_text())
    assert written["function_name"] == "my-problem" and not written["maximization"]
    (scenario,) = written["scenarios"]
    assert scenario["dimension"] == problem.dimension
    drawn = [np.random.default_rng(seed).uniform(*problem.bounds, (20, problem.dimension)) for seed in (0, 1)]
    losses = [problem.evaluate(X) for X in drawn]
    assert [run["best"]["y"] for run in scenario["runs"]] == best == [values.min() for values in losses]
    for run, X, values in zip(scenario["runs"], drawn, losses, strict=True):
        assert (run["instance"], run["evals"]) == (3, 20)
        np.testing.assert_array_equal(run["best"]["x"], X[values.argmin()])
    rows = (info.parent / scenario["path"]).read_text().split("evaluations raw_y\n")[1:]
    for text, values in zip(rows, losses, strict=True):
        logged = np.array([line.split() for line in text.splitlines()], dtype=float)
        improved = np.flatnonzero(values == np.minimum.accumulate(values))  # ioh's default is to log these, and the end
        np.testing.assert_array_equal(logged[: len(improved)], np.stack([improved + 1, values[improved]], axis=1))


def test_an_experiment_of_ioh_runs(problem, tmp_path):
    class Algorithm:
        def __call__(self, f):
            random_search(f, 0)

    f = problem.to_ioh()
    (tmp_path / "here").mkdir()
    experiment = ioh.Experiment(
        Algorithm(), [], [1], [problem.dimension], output_directory=str(tmp_path / "here"), zip_output=False
    )
    experiment.add_custom_problem(f, name=f.meta_data.name, lb=-5.0, ub=5.0)
    experiment()
    (info,) = tmp_path.rglob("*.json")
    (run,) = json.loads(info.read_text())["scenarios"][0]["runs"]
    X = np.random.default_rng(0).uniform(*problem.bounds, (20, problem.dimension))
    assert run["best"]["y"] == problem.evaluate(X).min()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_the_penalty_and_counts(problem, bad, points):
    f = problem.to_ioh()
    X = points(3, problem.dimension)
    expected = problem.evaluate(X)
    X[1, 3] = bad
    np.testing.assert_array_equal(f(X), [expected[0], problem.penalty, expected[2]])
    assert f(X[1]) == problem.penalty
    assert f.state.evaluations == 4
    assert f.state.current_best.y == min(expected[0], expected[2])


def test_wrapped_twice_it_is_one_function_with_two_states(problem):
    first, second = problem.to_ioh(), problem.to_ioh()
    assert (first.meta_data.name, first.meta_data.problem_id) == (second.meta_data.name, second.meta_data.problem_id)
    first(problem.x0)
    assert (first.state.evaluations, second.state.evaluations) == (1, 0)


def test_another_problem_has_another_name_and_number(tiny_gpt2, label_task, text_task, problem):
    others = [
        lp.Problem(tiny_gpt2, text_task, SUBSPACE),
        lp.Problem(tiny_gpt2, text_task, SUBSPACE, seed=1),
        lp.Problem(tiny_gpt2, label_task, SUBSPACE),
        problem,
    ]
    faces = [*(other.to_ioh() for other in others), problem.to_ioh(objectives=("error",))]
    assert len({f.meta_data.name for f in faces}) == len({f.meta_data.problem_id for f in faces}) == 5
    for f, other in zip(faces, others, strict=False):
        assert f.meta_data.name.endswith(f"-{other.fingerprint[:8]}")
        assert f(other.x0) == other(other.x0)
    assert faces[-1](problem.x0) == problem.metrics(problem.x0, "search")["error"]


def test_a_functions_number_follows_from_its_name(named):
    """Files of several processes, and of today and tomorrow, are read together by it."""
    assert named.to_ioh().meta_data.problem_id == 36_869


def test_names_fit_files(tmp_path, tiny_gpt2, text_task):
    folder = tmp_path / ("a model's folder, with a name that goes on and on " * 3)
    tiny_gpt2.model.save_pretrained(folder)
    tiny_gpt2.tokenizer.save_pretrained(folder)
    problem = lp.Problem(str(folder), text_task, SUBSPACE)
    f = problem.to_ioh()
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", f.meta_data.name)
    f.attach_logger(ioh.logger.Analyzer(root=str(tmp_path), folder_name="runs"))
    gc.collect()  # ioh's own problems crash where nobody else keeps the logger
    f(problem.x0)
    f.reset()
    assert list((tmp_path / "runs").glob(f"*{f.meta_data.name}.json"))


@pytest.mark.parametrize("name", ["a/b", "", "a b", "x" * 101, "né", 3])
def test_names_that_do_not_fit_are_refused(problem, name):
    with pytest.raises(ValueError, match="name must be of 1 to 100 letters"):
        problem.to_ioh(name=name)


@pytest.mark.parametrize("instance", [-1, 1.0, True])
def test_instances_that_are_none_are_refused(problem, instance):
    with pytest.raises(ValueError, match="instance must be a non-negative integer"):
        problem.to_ioh(instance=instance)


@pytest.mark.parametrize("x", [np.zeros(3), np.zeros((2, 3)), np.float64(1), np.zeros((1, 1, 8)), ["a"] * 16, None])
def test_what_is_no_point_is_refused(problem, x):
    with pytest.raises(ValueError, match=r"x must (have shape \(16,\) or \(n, 16\)|hold numbers)"):
        problem.to_ioh()(x)


def test_several_objectives_are_refused(problem):
    with pytest.raises(ValueError, match=r"one objective, and this problem has loss, error: .*objectives=\('loss',\)"):
        problem.to_ioh(objectives=("loss", "error"))


def test_constraints_are_iohs(constrained, points, tmp_path):
    f = constrained.to_ioh()
    logger = ioh.logger.Analyzer(
        root=str(tmp_path),
        folder_name="runs",
        triggers=[ioh.logger.trigger.ALWAYS],
        additional_properties=[ioh.logger.property.VIOLATION],
    )
    logger.full_precision = True
    f.attach_logger(logger)
    X = 0.9 * points(6, constrained.dimension)
    F, G, _ = constrained.evaluate_all(X)
    amounts = np.maximum(G, 0).sum(axis=1)
    assert (amounts > 0).any() and (amounts == 0).sum() > 1
    np.testing.assert_allclose(f(X), F[:, 0] + constrained.penalty * amounts, rtol=1e-12)
    assert f.state.current_best.y == F[amounts == 0, 0].min()
    assert f.constraints.n() == 2
    for x, row in zip(X, G, strict=True):  # asked by themselves, and not only of the point that was evaluated last
        assert [f.constraints[number].is_feasible(x) for number in (0, 1)] == (row <= 0).tolist()
    f.reset()
    (table,) = tmp_path.rglob("*.dat")
    rows = np.array([line.split() for line in table.read_text().splitlines()[1:]], dtype=float)
    np.testing.assert_array_equal(rows, np.stack([np.arange(1, 7), F[:, 0], amounts], axis=1))


def test_a_point_that_is_not_finite_breaks_constraints(constrained):
    f = constrained.to_ioh()
    bad = np.full(constrained.dimension, np.nan)
    assert f(bad) > constrained.penalty
    assert f(constrained.x0) == f.state.current_best.y


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies_and_pickles_start_anew(text_task, duplicate, points):
    f = lp.Problem("tiny-gpt2", text_task, SUBSPACE, constraints={"norm": 0.5}).to_ioh(instance=4, name="other")
    X = points(2, f.problem.dimension)
    expected = f(X)
    twin = duplicate(f)
    assert (twin.meta_data.name, twin.meta_data.instance) == ("other", 4)
    assert twin.state.evaluations == 0
    np.testing.assert_array_equal(twin(X), expected)
    assert len(pickle.dumps(f)) < 20_000


def test_nothing_of_ioh_keeps_the_problem(small_pair, text_task):
    problem = lp.Problem(small_pair("gpt2"), text_task, SUBSPACE, constraints={"norm": 0.5})
    f = problem.to_ioh()
    f(problem.x0)
    there = weakref.ref(problem)
    del f, problem
    gc.collect()
    assert there() is None


def test_without_ioh_the_error_is_the_pip_line(problem, monkeypatch):
    monkeypatch.setitem(sys.modules, "ioh", None)
    monkeypatch.delitem(sys.modules, "llm_problem.ioh_problem", raising=False)
    with pytest.raises(ImportError, match="pip install ioh"):
        problem.to_ioh()
