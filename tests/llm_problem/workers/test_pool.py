"""Workers: values in order and whole, whatever becomes of the processes; and nothing is left of them."""

import contextlib
import copy
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from llm_problem.asynchronous import AsynchronousExecutor
from llm_problem.nevergrad_function import NevergradFunction
from llm_problem.workers import Abandoned, Killed, Pooled, TimedOut, WorkerPool, base
from llm_problem.workers.process import Worker
from llm_problem_adapters.faults.left_over import processes, shared_memory
from tests.llm_problem.workers.problems import Faced, Marked, Sometimes, Square, TooLarge


@pytest.fixture
def leaves_nothing():
    """No process of ours, not even a zombie, and no shared memory, is there afterwards that was not before."""

    before = processes(), shared_memory()
    yield
    assert processes() <= before[0]
    assert shared_memory() <= before[1]


def drawn(n, dimension=3, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (n, dimension))


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_values_are_those_of_one_process_in_the_order_of_the_points(chunk, leaves_nothing):
    X = drawn(40)
    with WorkerPool(Square(), 2, chunk=chunk) as pool:
        assert Pooled(pool).evaluate(X).tobytes() == Square().evaluate(X).tobytes()
        assert Pooled(pool).evaluate(X[:0]).shape == (0,)
        pool.wait_built()
        assert len(pool.pids) == 2


def test_workers_are_killed_every_moment_and_nothing_is_lost(leaves_nothing):
    """Whoever is killed, at work, idle or while it is built, each point gets its own value, once."""
    X, problem, rng, over = drawn(400), Square(seconds=0.01), np.random.default_rng(0), threading.Event()
    with WorkerPool(problem, 2) as pool:

        def kill():
            while not over.wait(0.5):
                pids = pool.pids
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.kill(pids[rng.integers(len(pids))], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        found = Pooled(pool).evaluate(X)
        over.set()
        killer.join()
        assert pool.replaced >= 3
    assert found.tobytes() == Square().evaluate(X).tobytes()


def test_a_point_that_kills_its_workers_has_failed_after_two_and_takes_no_other_with_it(leaves_nothing):
    X = drawn(12)
    X[5, 0], X[9, 0] = 3, -3
    with WorkerPool(Marked("kill"), 2) as pool:
        found = pool.outcomes("evaluate", X)
        assert pool.replaced == 3  # with its neighbours, and twice alone
    assert isinstance(found[5], Killed) and "killed by SIGKILL" in str(found[5]) and "2 times" in str(found[5])
    assert isinstance(found[9], ArithmeticError)
    others = [i for i in range(12) if i not in (5, 9)]
    assert [found[i] for i in others] == Square().evaluate(X[others]).tolist()


def test_what_is_too_large_for_a_worker_goes_out_in_smaller_parts(leaves_nothing):
    X = drawn(8)
    with WorkerPool(TooLarge(), 2, chunk=4) as pool:
        assert Pooled(pool).evaluate(X).tolist() == Square().evaluate(X).tolist()


@pytest.mark.parametrize(
    ("deed", "limit", "kind", "word"),
    [
        ("hang", {"evaluation_seconds": 0.5}, TimedOut, "longer than 0.5 seconds"),
        ("memory", {"memory": 500_000_000}, Killed, "more than 500,000,000"),
    ],
)
def test_a_worker_that_passes_a_limit_is_replaced(deed, limit, kind, word, leaves_nothing):
    X = drawn(10)
    X[3, 0] = 3
    with WorkerPool(Marked(deed), 2, **limit) as pool:
        found = pool.outcomes("evaluate", X)
        assert pool.replaced == 1
    assert isinstance(found[3], kind) and word in str(found[3])
    assert [found[i] for i in range(10) if i != 3] == np.delete(Square().evaluate(X), 3).tolist()


def test_workers_come_and_go_in_the_middle(leaves_nothing):
    X = drawn(60)
    with WorkerPool(Square(seconds=0.01), 1) as pool:
        call = pool.submit("evaluate", X)
        while call.left > 50:
            pool.pump()
        pool.resize(3)
        pool.wait_built()
        assert len(set(pool.pids)) == 3
        while call.left > 20:
            pool.pump()
        pool.resize(1)
        while not call.done:
            pool.pump()
        assert len(pool.pids) == 1
    assert call.outcomes == Square().evaluate(X).tolist()


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, whoever ran before in this process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interruption_leaves_a_pool_that_can_be_used_or_closed(leaves_nothing, interruptible):
    X = drawn(40)
    with WorkerPool(Square(seconds=0.2), 2) as pool:
        pool.wait_built()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            Pooled(pool).evaluate(X)
        assert Pooled(pool).evaluate(X[:3]).tolist() == Square().evaluate(X[:3]).tolist()
    with pytest.raises(RuntimeError, match="closed"):
        pool.outcomes("evaluate", X)
    pool.close()


def test_an_interruption_ends_futures_with_an_error_that_says_so(leaves_nothing, interruptible):
    problem = Faced("kill", seconds=0.3)
    f = NevergradFunction(problem)
    with WorkerPool(problem, 1) as pool:
        executor = AsynchronousExecutor(problem, pool, own=False)
        jobs = [executor.submit(f, x) for x in drawn(4)]
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            [job.result() for job in jobs]
        assert all(job.done() for job in jobs)
        with pytest.raises(Abandoned, match="given up before it was evaluated: KeyboardInterrupt"):
            jobs[-1].result(timeout=1)
        waiting = executor.submit(f, drawn(1)[0])
    assert waiting.done() and "closed before this was evaluated" in str(waiting.exception())


@pytest.mark.parametrize("way", ["submit", "outcomes"])
def test_an_interruption_while_points_are_sent_leaves_no_worker_busy(way, leaves_nothing, monkeypatch):
    """Half a message is on its way: whoever gets it waits for the rest, and for good."""
    X = drawn(6)
    with WorkerPool(Square(), 2) as pool:
        pool.wait_built()
        before, send = pool.pids, Worker._send

        def interrupted(worker, chunk):
            os.write(worker.pipe.fileno(), (100).to_bytes(4, "big") + b"x")
            raise KeyboardInterrupt

        monkeypatch.setattr(Worker, "_send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            getattr(pool, way)("evaluate", X)
        monkeypatch.setattr(Worker, "_send", send)
        assert len(set(before) & set(pool.pids)) == 1
        call = pool.submit("evaluate", X)
        end = time.monotonic() + 20
        while not call.done and time.monotonic() < end:
            pool.pump(1.0)
        assert call.outcomes == Square().evaluate(X).tolist()
        pool.wait_built()
        assert not any(worker.chunk for worker in pool._workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_cannot_be_replaced_for_a_while_ends_nothing(workers, leaves_nothing, tmp_path):
    """A file was away, memory was short: it was built before, and may be again."""
    X, away = drawn(20), tmp_path / "away"
    with WorkerPool(Sometimes(away, seconds=0.05), workers) as pool:
        pool.wait_built()
        call = pool.submit("evaluate", X)
        away.touch()
        os.kill(pool.pids[0], signal.SIGKILL)
        while pool.replaced < 3:
            pool.pump(0.5)
        away.unlink()
        while not call.done:
            pool.pump()
        pool.wait_built()
        assert len(pool.pids) == workers
    assert call.outcomes == Square().evaluate(X).tolist()


def test_a_chain_of_lost_workers_is_said_once(leaves_nothing, monkeypatch):
    monkeypatch.setattr(base, "MANY", 3)
    X = drawn(6)
    X[[1, 3], 0] = 3
    with WorkerPool(Marked("kill"), 1, chunk=1) as pool:
        with pytest.warns(RuntimeWarning, match="3 workers of <WorkerPool of 1 .* killed by SIGKILL") as said:
            pool.outcomes("evaluate", X)
        assert len(said) == 1 and pool.replaced == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_of_the_driver_leaves_the_workers_alone(leaves_nothing):
    with WorkerPool(Square(), 1) as pool:
        pool.wait_built()
        child = os.fork()
        if not child:
            said = ""
            try:
                pool.outcomes("evaluate", drawn(1))
            except RuntimeError as error:
                said = str(error)
            pool.close()
            os._exit(0 if "forked" in said else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert pool.outcomes("evaluate", drawn(2)) == Square().evaluate(drawn(2)).tolist() and pool.replaced == 0


def test_a_worker_has_the_environment_of_its_driver(leaves_nothing, monkeypatch):
    import torch  # so that there is a fork server, which has an environment of its own

    assert torch.__version__
    for value in ("first", "second", None):
        if value is None:
            monkeypatch.delenv("LLM_PROBLEM_TRIED")
        else:
            monkeypatch.setenv("LLM_PROBLEM_TRIED", value)
        with WorkerPool(Square(), 1) as pool:
            assert pool.outcomes("variable", drawn(1)) == [value]


def test_a_pooled_problem_can_be_copied(leaves_nothing):
    with WorkerPool(Square(), 1) as pool:
        copied = copy.copy(Pooled(pool))
        assert copied.evaluate(drawn(2)).tolist() == Square().evaluate(drawn(2)).tolist() and copied.dimension == 3


def test_points_are_those_that_were_submitted(leaves_nothing):
    X = drawn(8)
    expected = Square().evaluate(X).tolist()
    with WorkerPool(Square(), 1) as pool:
        call = pool.submit("evaluate", X)
        X[:] = 0
        while not call.done:
            pool.pump()
    assert call.outcomes == expected


def test_workers_of_a_driver_that_was_killed_end_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from llm_problem.workers import WorkerPool\n"
        "from llm_problem_adapters.faults.objectives import Free\n"
        "import time\n"
        "if __name__ == '__main__':\n"
        "    pool = WorkerPool(Free(), 2)\n"
        "    pool.wait_built()\n"
        "    print(*pool.pids, flush=True)\n"
        "    time.sleep(60)\n"
    )
    driver = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    driver.kill()
    driver.communicate()
    end = time.monotonic() + 10
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_script_without_the_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from llm_problem.workers import WorkerPool\n"
        "from llm_problem_adapters.faults.objectives import Free\n"
        "WorkerPool(Free(), 2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'make workers under if __name__ == "__main__"' in done.stderr.splitlines()[-1]
