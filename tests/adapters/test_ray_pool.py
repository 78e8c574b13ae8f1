"""Workers on Ray: the serial run to the bit, and faults that are nobody else's affair."""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import psutil
import pytest

from llm_problem.workers import Killed, NotBuilt, TimedOut
from llm_problem_adapters import minimize
from tests.llm_problem.workers.problems import Marked, NeverBuilt, Square

ray = pytest.importorskip("ray")
from ray import exceptions  # noqa: E402

from llm_problem_adapters import ray_pool  # noqa: E402
from llm_problem_adapters.ray_cluster import connect, require_answer  # noqa: E402
from llm_problem_adapters.ray_pool import RayPool  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cluster():
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    assert connect(None, 30, 4)
    yield
    ray.shutdown()
    end = time.monotonic() + 20
    while left := [c for c in psutil.Process().children(recursive=True) if c.pid not in before]:
        assert time.monotonic() < end, left
        time.sleep(0.2)


def drawn(n):
    return np.random.default_rng(0).uniform(-2, 2, (n, 3))


def test_a_run_is_the_serial_one_for_any_number_of_actors():
    problem = Square()
    expected = minimize(problem, "genetic-algorithm", 60, seed=2, population=20)
    with RayPool(problem, 1) as pool:
        for k in (1, 2, 4):
            pool.resize(k)
            found = minimize(problem, "genetic-algorithm", 60, seed=2, population=20, workers=pool)
            assert found.losses.tobytes() == expected.losses.tobytes() and found.x.tobytes() == expected.x.tobytes()
    assert ray.is_initialized()  # the cluster was there before


def test_actors_are_killed_in_the_middle_and_nothing_is_lost():
    X = drawn(100)
    with RayPool(Square(seconds=0.02), 2, chunk=5) as pool:
        call = pool.submit("evaluate", X)
        for left in (80, 50, 20):
            while call.left > left:
                pool.pump(0.5)
            for pid in [each["pid"] for each in pool.facts][:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        while not call.done:
            pool.pump()
        assert pool.replaced >= 2
    assert np.array(call.outcomes).tobytes() == Square().evaluate(X).tobytes()


def test_what_kills_hangs_or_raises_is_the_affair_of_its_own_point():
    X = drawn(8)
    X[2, 0], X[5, 0] = 3, -3
    for deed, limit, kind in (("kill", {}, Killed), ("hang", {"evaluation_seconds": 1.0}, TimedOut)):
        with RayPool(Marked(deed), 2, **limit) as pool:
            found = pool.outcomes("evaluate", X)
        assert isinstance(found[2], kind) and isinstance(found[5], ArithmeticError)
        assert np.delete(np.array(found, dtype=object), [2, 5]).tolist() == [
            Square().evaluate(X[i : i + 1])[0] for i in (0, 1, 3, 4, 6, 7)
        ]


@pytest.mark.parametrize(
    "error",
    [
        exceptions.OutOfMemoryError("too much memory is taken on this node"),
        exceptions.NodeDiedError("the node is gone"),
        exceptions.ActorDiedError(),
        exceptions.ActorUnavailableError("no way to the actor", None),
        exceptions.WorkerCrashedError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_takes_an_actor_away_costs_an_actor_and_no_value(error, monkeypatch):
    X = drawn(4)
    with RayPool(Square(), 1) as pool:
        get, left = ray.get, [error]
        monkeypatch.setattr(ray, "get", lambda *args, **kwargs: _raise(left.pop()) if left else get(*args, **kwargs))
        assert pool.outcomes("evaluate", X) == Square().evaluate(X).tolist()
        assert pool.replaced == 1


def test_what_the_function_raises_costs_no_actor(monkeypatch):
    error = exceptions.RayTaskError("rows", "where it was", ArithmeticError("no number")).as_instanceof_cause()
    with RayPool(Square(), 1) as pool:
        monkeypatch.setattr(ray, "get", lambda *_, **__: _raise(error))
        (found,) = pool.outcomes("evaluate", drawn(1))
        assert isinstance(found, ArithmeticError) and "no number" in str(found) and pool.replaced == 0


def _raise(error):
    raise error


def test_an_actor_that_is_to_go_finishes_what_it_has_in_hand():
    with RayPool(Square(seconds=0.5), 2, chunk=2) as pool:
        pool.wait_built()
        call = pool.submit("who", drawn(4))
        pool.resize(1)
        while not call.done:
            pool.pump()
        assert len(set(call.outcomes)) == 2 and pool.replaced == 0
        assert len(set(pool.outcomes("who", drawn(4)))) == 1


def test_what_cannot_be_built_or_has_no_place_is_said():
    with pytest.raises(NotBuilt, match=f"not built on {socket.gethostname()}: FileNotFoundError: no such model here"):
        RayPool(NeverBuilt(), 2)
    with pytest.raises(
        NotBuilt,
        match=r"2 workers of 1 CPU, 1 GPU each do not fit into this cluster, whose nodes have \d+ CPU, 0 GPU: 0 do",
    ):
        RayPool(Square(), 2, gpus=1)
    for bad in (0, -1, 1.5, "a"):
        with pytest.raises(ValueError, match="workers must be an integer of at least 1, got"):
            RayPool(Square(), bad)
    problem = Square()
    with RayPool(problem, 1) as pool:
        with pytest.raises(NotBuilt, match="1000 workers of 1 CPU each do not fit into this cluster"):
            pool.resize(1000)
        with pytest.raises(ValueError, match="make a pool of the problem"):
            minimize(Square(), "cma", 40, workers=pool)
    with pytest.raises(RuntimeError, match="this pool of workers is closed"):
        minimize(problem, "cma", 40, workers=pool)


def test_workers_that_fit_onto_all_nodes_together_but_onto_no_single_one(monkeypatch):
    nodes = [{"Alive": alive, "Resources": {"CPU": 3.0}} for alive in (True, True, False)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(NotBuilt, match=r"3 workers of 2 CPU each do not fit .*, whose nodes have 3 CPU: 2 do"):
        RayPool(Square(), 3, cpus=2)


def test_another_address_than_the_one_that_this_process_is_connected_to():
    there = ray.get_runtime_context().gcs_address
    for address in (there, "localhost:" + there.rpartition(":")[2], "auto", None):
        with RayPool(Square(), 1, address=address) as pool:
            assert pool.workers == 1
        assert ray.is_initialized()
    for other in ("127.0.0.1:1", "ray://192.0.2.1:10001", "192.0.2.1:" + there.rpartition(":")[2]):
        with pytest.raises(ValueError, match=f"connected to the Ray cluster at {there} already, not to '{other}'"):
            RayPool(Square(), 1, address=other)
    with pytest.raises(ValueError, match="host:port"):
        RayPool(Square(), 1, address="nowhere")


def test_a_connection_ends_with_the_last_pool_that_uses_it_and_a_later_one_is_not_taken_for_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "import ray\n"
        "from llm_problem_adapters.faults.objectives import Free\n"
        "from llm_problem_adapters.ray_pool import RayPool\n"
        "if __name__ == '__main__':\n"
        "    first, second = RayPool(Free(), 1), RayPool(Free(), 1)\n"
        "    first.close()\n"
        "    print(second.outcomes('evaluate', np.ones((1, 4))), ray.is_initialized())\n"
        "    second.close()\n"
        "    print(ray.is_initialized())\n"
        "    third = RayPool(Free(), 1)\n"
        "    ray.shutdown()\n"
        "    ray.init(address='local', num_cpus=1, include_dashboard=False)\n"
        "    third.close()\n"
        "    print(ray.is_initialized())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180)
    assert done.stdout.replace("np.float64(0.0)", "0.0").split("\n")[:3] == ["[0.0] True", "False", "True"], done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpus": -1}, "cpus must be a finite number of at least 0, got -1"),
        ({"cpus": "a"}, "cpus must be a finite number"),
        ({"gpus": float("nan")}, "gpus must be a finite number"),
        ({"resources": {"disk": -2}}, r"resources\['disk'\] must be a finite number"),
        ({"resources": {"CPU": 1}}, "CPU are cpus= and gpus="),
        ({"address": 5}, "a Ray address is .*, got 5"),
    ],
)
def test_what_an_actor_cannot_take_is_told_before_ray_is_asked(options, said, monkeypatch):
    monkeypatch.setattr(ray_pool, "connect", lambda *_: pytest.fail("connected"))
    with pytest.raises(ValueError, match=said):
        RayPool(Square(), 1, **options)


def test_a_pool_that_is_collected_while_another_one_connects(monkeypatch):
    """In a notebook a pool goes when Python comes upon it, which may be inside of ray.init."""
    gone = RayPool(Square(), 1)
    gone.itself, collected = gone, weakref.ref(gone)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def init(**_):
        nonlocal gone
        gone = None
        gc.collect()
        raise ConnectionError("as far as this goes")

    def connecting():
        with contextlib.suppress(ConnectionError):
            connect(None, 5, 1)

    monkeypatch.setattr(ray, "init", init)
    thread = threading.Thread(target=connecting, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and collected() is None


def test_a_cluster_that_is_full_is_told(monkeypatch):
    monkeypatch.setattr(ray_pool, "LONG", 2.0)
    with RayPool(Square(), 1, cpus=int(ray.cluster_resources()["CPU"])):
        began = time.monotonic()
        monkeypatch.setattr(ray_pool.RayPool, "pump", _at_most(ray_pool.RayPool.pump, began + 8))
        with pytest.warns(RuntimeWarning, match=r"1 × 1 CPU; free, .*, are 0 CPU"), pytest.raises(InterruptedError):
            RayPool(Square(), 1)


def _at_most(pump, end):
    def until(pool, seconds):
        if time.monotonic() > end:
            raise InterruptedError
        pump(pool, seconds)

    return until


def test_a_head_that_answers_and_refuses_is_quoted(monkeypatch):
    def refuse(words, **_):
        return subprocess.CompletedProcess(words, 1, "", "trace\nAuthenticationError: token missing\n")

    monkeypatch.setattr(subprocess, "run", refuse)
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        with pytest.raises(
            ConnectionError, match=r"health check failed: AuthenticationError: token missing .*AUTH_MODE"
        ):
            require_answer(f"127.0.0.1:{head.getsockname()[1]}", 5)


def test_an_address_that_does_not_answer_is_told_in_time():
    with pytest.raises(ValueError, match="host:port"):
        require_answer("nowhere", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(ConnectionError, match="is its head running"):
            require_answer(f"127.0.0.1:{port}", 2)
        silent.listen()
        began = time.monotonic()
        with pytest.raises(
            ConnectionError, match=r"something listens at .*, but no Ray cluster answered within 3 seconds"
        ):
            require_answer(f"127.0.0.1:{port}", 3)
        assert time.monotonic() - began < 10
