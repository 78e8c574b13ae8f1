"""Executors over workers come to an end, and their own workers with them, whatever ends them."""

from concurrent.futures import CancelledError

import numpy as np
import pytest

from llm_problem.asynchronous import AsynchronousExecutor
from llm_problem.executor import BatchExecutor
from llm_problem.nevergrad_function import NevergradFunction
from llm_problem.workers import WorkerPool
from tests.llm_problem.workers.problems import Faced

X = np.random.default_rng(0).uniform(-1, 1, (4, 3))
LOSSES = np.square(X - 1).sum(axis=1).tolist()


@pytest.fixture(scope="module")
def problem():
    return Faced("kill", seconds=0.05)


@pytest.fixture
def pool(problem):
    with WorkerPool(problem, 1) as pool:
        yield pool


@pytest.fixture(params=["batch", "asynchronous"])
def kind(request, problem):
    """Makes an executor of a pool."""
    if request.param == "batch":
        return lambda pool, own: BatchExecutor(problem, 16, pool, own)
    return lambda pool, own: AsynchronousExecutor(problem, pool, own)


@pytest.mark.parametrize("wait", [True, False])
def test_what_waits_is_evaluated_and_own_workers_end_then(kind, wait, pool, problem):
    executor, f = kind(pool, True), NevergradFunction(problem)
    jobs = [executor.submit(f, x) for x in X]
    executor.shutdown(wait=wait)
    assert bool(pool.pids) != wait
    assert [job.result() for job in jobs] == LOSSES
    assert not pool.pids
    with pytest.raises(RuntimeError, match="this executor was shut down"):
        executor.submit(f, X[0])


def test_a_lent_pool_lives_on_and_what_waits_is_waited_for(kind, pool, problem):
    executor, f = kind(pool, False), NevergradFunction(problem)
    jobs = [executor.submit(f, x) for x in X]
    executor.shutdown()
    with pytest.raises(RuntimeError, match="this executor was shut down"):
        executor.submit(f, X[0])
    assert pool.outcomes("evaluate", X[:1]) == LOSSES[:1]
    assert [job.result() for job in jobs] == LOSSES


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
def test_a_block_that_ends_with_an_error_evaluates_nothing_more(kind, own, error, pool, problem):
    f = NevergradFunction(problem)
    with pytest.raises(error), kind(pool, own) as executor:
        jobs = [executor.submit(f, x) for x in X]
        raise error
    assert all(job.done() and isinstance(job.exception(), CancelledError) for job in jobs)
    assert bool(pool.pids) != own
    if not own:
        assert pool.outcomes("evaluate", X) == LOSSES


def test_own_workers_end_where_the_last_evaluation_raises(kind, pool, problem, monkeypatch):
    executor, f = kind(pool, True), NevergradFunction(problem)
    jobs = [executor.submit(f, x) for x in X]

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_heard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.shutdown()
    assert not pool.pids
    assert all(isinstance(job.exception(), CancelledError) for job in jobs)
