"""`executor=problem.executor(batch=16)`: Nevergrad evaluates populations, and the run is the one it would be anyway."""

import math
import pickle
import threading
from concurrent.futures import CancelledError

import nevergrad as ng
import numpy as np
import pytest

import llm_problem as lp
from llm_problem.executor import BatchExecutor

NAME = "tiny-gpt2-prose-lora-xs-d32-v1"
WORKERS = 16


@pytest.fixture(scope="module")
def problem():
    return lp.make(NAME)


@pytest.fixture(scope="module")
def limited(tiny_gpt2):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    return lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), constraints={"drift": 0.01, "norm": 4})


@pytest.fixture
def calls(monkeypatch):
    """The number of points of each call of `evaluate_all`, of whatever problem."""
    sizes, right = [], lp.Problem.evaluate_all
    monkeypatch.setattr(
        lp.Problem, "evaluate_all", lambda self, X, *a, **k: sizes.append(len(X)) or right(self, X, *a, **k)
    )
    return sizes


def run(problem, name, budget, executor=None, workers=WORKERS, **options):
    """Every point and loss in the order in which they were told, and what was recommended."""
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(4)
    optimizer = ng.optimizers.registry[name](f.parametrization, budget=budget, num_workers=workers)
    told = []
    optimizer.register_callback("tell", lambda _, candidate, loss: told.append((candidate.value.tobytes(), loss)))
    if options:
        options = {"constraint_violation": f.constraint_violations}
    recommendation = optimizer.minimize(f, executor=executor, **options)
    return told, recommendation.value.tobytes()


@pytest.mark.filterwarnings("ignore::nevergrad.common.errors.InefficientSettingsWarning")
@pytest.mark.parametrize("name", ["DE", "TwoPointsDE", "PSO", "CMA", "OnePlusOne", "RandomSearch", "TBPSA", "NGOpt"])
def test_a_run_is_the_sequential_one_in_the_fewest_calls(name, problem, calls):
    budget = 40
    alone = run(problem, name, budget)
    assert calls == [1] * budget
    calls.clear()
    together = run(problem, name, budget, problem.executor(batch=WORKERS))
    assert len(calls) == math.ceil(budget / WORKERS)
    assert sum(calls) == budget == len(together[0])
    assert together == alone


@pytest.mark.parametrize("batch_mode", [False, True])
def test_more_workers_than_a_batch_holds(problem, calls, batch_mode):
    f = problem.to_nevergrad()
    optimizer = ng.optimizers.RandomSearch(f.parametrization, budget=40, num_workers=40)
    optimizer.minimize(f, executor=problem.executor(batch=16), batch_mode=batch_mode)
    assert calls == [16, 16, 8]


@pytest.mark.filterwarnings("ignore::nevergrad.common.errors.InefficientSettingsWarning")
@pytest.mark.parametrize("name", ["DE", "OnePlusOne"])
def test_with_constraints_each_point_is_evaluated_once(name, limited, calls):
    alone = run(limited, name, 32, constraints=True)
    calls.clear()
    together = run(limited, name, 32, limited.executor(), constraints=True)
    assert calls == [16, 16]
    assert together == alone


def test_several_objectives(problem, calls):
    f = problem.to_nevergrad(objectives=("loss", "drift"))
    f.parametrization.random_state.seed(0)
    optimizer = ng.optimizers.DE(f.parametrization, budget=32, num_workers=16)
    optimizer.minimize(f, executor=f.problem.executor())
    assert calls == [16, 16]
    for candidate in optimizer.pareto_front():
        np.testing.assert_array_equal(candidate.losses, f(candidate.value))


def test_copies_share_a_batch_and_values_are_those_of_the_function(problem, points):
    f, executor = problem.to_nevergrad(), problem.executor(batch=99)
    X = points(4, problem.dimension)
    jobs = [executor.submit(g, x) for x in X for g in (f, f.copy())]
    assert [job.result() for job in jobs] == [f(x) for x in X for _ in range(2)]
    assert all(type(job.result()) is float for job in jobs)
    assert all(job.exception() is None for job in jobs)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_not_finite_is_the_penalty_and_spoils_no_neighbour(problem, points, bad):
    f, executor = problem.to_nevergrad(), problem.executor()
    X = points(3, problem.dimension)
    expected = [f(X[0]), problem.penalty, f(X[2])]
    X[1] = bad
    assert [job.result() for job in [executor.submit(f, x) for x in X]] == expected


def test_a_point_of_another_shape_is_its_own_error(problem):
    f, executor = problem.to_nevergrad(), problem.executor()
    right, wrong = executor.submit(f, problem.x0), executor.submit(f, np.zeros(3))
    assert right.result() == f(problem.x0)
    assert wrong.done()
    with pytest.raises(ValueError, match=r"x must have shape \(32,\), got \(3,\)"):
        wrong.result()
    assert isinstance(wrong.exception(), ValueError)


def test_what_an_evaluation_raises_comes_out_of_every_result(problem, monkeypatch):
    f, executor = problem.to_nevergrad(), problem.executor()
    jobs = [executor.submit(f, problem.x0) for _ in range(3)]

    def fails(X):
        raise MemoryError("no room")

    monkeypatch.setattr(problem, "evaluate_all", fails, raising=False)
    for job in jobs:
        assert job.done()
        with pytest.raises(MemoryError, match="no room"):
            job.result()
    with pytest.raises(MemoryError, match="no room"):
        ng.optimizers.DE(f.parametrization, budget=20, num_workers=16).minimize(f, executor=executor)


def test_an_interruption_leaves_the_points_waiting(problem, monkeypatch):
    f, executor = problem.to_nevergrad(), problem.executor()
    jobs = [executor.submit(f, problem.x0) for _ in range(2)]

    def interrupted(X):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(problem, "evaluate_all", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            jobs[0].done()
    assert [job.result() for job in jobs] == [f(problem.x0)] * 2


def test_only_functions_of_this_problem_are_taken(problem, limited):
    f, executor = problem.to_nevergrad(), problem.executor()
    for other in (limited.to_nevergrad(), problem.to_nevergrad(objectives=("loss", "drift")), lambda x: f(x), problem):
        with pytest.raises(ValueError, match=r"take the executor from f.problem.executor\(\)"):
            executor.submit(other, problem.x0)
    with pytest.raises(ValueError, match=r"takes one point x \(d,\), got 2 arguments"):
        executor.submit(f, problem.x0, 1)
    with pytest.raises(ValueError, match=r"the keywords \['x'\]"):
        executor.submit(f, x=problem.x0)


@pytest.mark.parametrize("batch", [0, -1, 2.0, True, "16", None])
def test_a_batch_is_a_count(problem, batch):
    with pytest.raises(ValueError, match="batch must be an integer of at least 1"):
        problem.executor(batch)


def test_it_is_shut_down_as_pools_are(problem, calls):
    f = problem.to_nevergrad()
    with problem.executor() as executor:
        job = executor.submit(f, problem.x0)
        assert calls == []
    assert calls == [1]
    assert job.done()
    with pytest.raises(RuntimeError, match="was shut down"):
        executor.submit(f, problem.x0)
    late = problem.executor()
    job = late.submit(f, problem.x0)
    late.shutdown(wait=False)
    assert calls == [1]
    assert job.result() == f(problem.x0)
    cancelled = problem.executor()
    job = cancelled.submit(f, problem.x0)
    cancelled.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        job.result()


def test_threads_may_submit_and_ask(problem, points):
    f, executor = problem.to_nevergrad(), problem.executor(batch=5)
    X = points(24, problem.dimension)
    found = {}

    def work(k):
        found[k] = executor.submit(f, X[k]).result()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(X))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: f(x) for k, x in enumerate(X)}


def test_a_pickled_job_keeps_its_value_or_finds_it(problem):
    f, executor = problem.to_nevergrad(), problem.executor()
    job = executor.submit(f, problem.x0)
    waiting = pickle.loads(pickle.dumps(job))
    assert waiting.result() == job.result() == pickle.loads(pickle.dumps(job)).result() == f(problem.x0)


def test_it_says_what_it_is(problem):
    executor = problem.executor(batch=3)
    assert isinstance(executor, BatchExecutor)
    assert repr(executor) == f"<BatchExecutor of <Problem {NAME}>, batch 3>"
