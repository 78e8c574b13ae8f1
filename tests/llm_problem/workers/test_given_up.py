"""A point that its workers could not evaluate: no loop of another library's ends with it."""

import nevergrad as ng
import numpy as np
import pytest
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.optimize import minimize as pymoo_minimize

from llm_problem.asynchronous import AsynchronousExecutor
from llm_problem.executor import BatchExecutor
from llm_problem.nevergrad_function import NevergradFunction
from llm_problem.points import BROKEN
from llm_problem.pymoo_problem import PymooProblem
from llm_problem.workers import Killed, Pooled, TimedOut, WorkerPool
from llm_problem_adapters import minimize
from tests.llm_problem.workers.problems import Faced

X = np.array([[0.0, 0.5, 1.0], [3.0, 0.0, 0.0], [1.0, 1.0, 1.5]])  # the second is above 2
CASES = [("kill", {}, "failed", Killed), ("hang", {"evaluation_seconds": 0.5}, "timed out", TimedOut)]


@pytest.fixture(scope="module", params=CASES, ids=["kill", "hang"])
def case(request):
    deed, limits, status, kind = request.param
    with WorkerPool(Faced(deed), 2, **limits) as pool:
        yield pool, status, kind


def test_it_has_no_loss_and_a_status(case):
    pool, status, kind = case
    pooled, expected = Pooled(pool), np.square(X - 1).sum(axis=1)
    expected[1] = np.nan
    np.testing.assert_array_equal(pooled.evaluate(X), expected)
    F, G, found = pooled.evaluate_all(X)
    np.testing.assert_array_equal(F, expected[:, None])
    np.testing.assert_array_equal(G, [[-5.0], [np.nan], [-4.0]])
    assert found.tolist() == ["ok", status, "ok"]
    losses, found = pooled.race(X, X[0])
    np.testing.assert_array_equal(losses, expected)
    assert found.tolist() == ["ok", status, "ok"]
    with pytest.raises(kind):
        pooled.value_and_grad(X[1])
    with pytest.raises(ArithmeticError, match="at -3"):  # what the problem raises is still raised
        pooled.evaluate(np.full((1, 3), -3.0))


def test_pymoo_gets_the_penalty_and_every_constraint_broken_and_goes_on(case):
    pool, *_ = case
    face = PymooProblem(pool.problem, workers=pool)
    found = face.evaluate(X, return_as_dictionary=True)
    assert found["F"][1] == pool.problem.penalty and found["G"][1] == BROKEN
    assert found["F"][0] == 1.25 and found["G"][0] == -5
    X0 = np.random.default_rng(0).uniform(-1.9, 1.9, (6, 3))
    X0[2, 0] = 3
    result = pymoo_minimize(face, GA(pop_size=6, sampling=X0), ("n_eval", 6), seed=1)
    assert result.F[0] == np.delete(np.square(X0 - 1).sum(axis=1), 2).min()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_nevergrad_gets_the_penalty_and_every_constraint_broken_and_goes_on(case, asynchronous):
    pool, *_ = case
    f = NevergradFunction(pool.problem)
    executor = (
        AsynchronousExecutor(pool.problem, pool, own=False) if asynchronous else BatchExecutor(f.problem, 3, pool)
    )
    jobs = [executor.submit(f, x) for x in X]
    assert [job.result() for job in jobs] == [1.25, pool.problem.penalty, 0.25]
    assert all(job.exception() is None for job in jobs)
    assert [violation(X[1]) for violation in f.constraint_violations] == [BROKEN]
    optimizer = ng.optimizers.OnePlusOne(f.parametrization, budget=3, num_workers=3)
    for x in X:
        optimizer.suggest(x)
    assert np.isfinite(optimizer.minimize(f, executor=executor).value).all()
    with pytest.raises(ArithmeticError, match="at -3"):
        executor.submit(f, np.full(3, -3.0)).result()


def test_a_reference_that_is_given_gradients_records_it_too():
    problem = Faced("kill")
    problem.constraints, problem.x0 = (), np.array([3.0, 0.0, 0.0])
    assert "failed" in minimize(problem, "adam", 6, workers=1).status
