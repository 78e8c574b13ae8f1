"""What is asked of workers that cannot be had: an error that says what was expected and what there is."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.suites.named import prose
from llm_problem.workers import NotBuilt, TooManyWorkers, WorkerPool
from llm_problem.workers.memory import free_memory, require_room
from llm_problem_adapters import minimize
from tests.llm_problem.workers.problems import Nested, NeverBuilt, Square


@pytest.fixture(scope="module")
def problem():
    return lp.make("tiny-gpt2-prose-lora-xs-d32-v1")


@pytest.fixture(scope="module")
def closed(problem):
    pool = WorkerPool(problem, 1)
    pool.close()
    pool.close()
    return pool


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "a", "2", np.float64(2), [2]])
def test_a_number_of_workers_that_is_none(bad, problem):
    takers = (
        lambda: WorkerPool(problem, bad),
        lambda: minimize(problem, "cma", 40, workers=bad),
        lambda: problem.executor(workers=bad),
        lambda: problem.to_pymoo(workers=bad),
    )
    for take in takers:
        with pytest.raises(ValueError, match=r"workers must be an integer of at least 1, got "):
            take()


def test_a_class_is_no_pool(problem):
    for take in (problem.executor, problem.to_pymoo, lambda workers: minimize(problem, "cma", 40, workers=workers)):
        with pytest.raises(ValueError, match=r"a number or a pool, as WorkerPool\(problem, 2\) is, got the class"):
            take(workers=WorkerPool)


@pytest.mark.parametrize("name", ["threads", "chunk"])
def test_other_counts_that_are_none(name):
    for bad in (0, 1.5, "a"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got {bad!r}"):
            WorkerPool(Square(), 1, **{name: bad})


def test_limits_that_are_none():
    for name in ("evaluation_seconds", "memory"):
        for bad in (0, -1, "a", float("nan")):
            with pytest.raises(ValueError, match=f"{name} must be .*, got {bad!r}"):
                WorkerPool(Square(), 1, **{name: bad})


def test_a_pool_of_another_problem(problem, closed):
    other = lp.make("tiny-gpt2-prose-lora-xs-d32-v1@1")
    takers = (
        lambda: minimize(other, "cma", 40, workers=closed),
        lambda: other.executor(workers=closed),
        lambda: other.to_pymoo(workers=closed),
    )
    for take in takers:
        with pytest.raises(ValueError, match=r"these workers evaluate .*: make a pool of the problem"):
            take()


def test_a_closed_pool(problem, closed):
    f, X = problem.to_nevergrad(), np.zeros((2, problem.dimension))
    takers = (
        lambda: closed.outcomes("evaluate", X),
        lambda: closed.submit("evaluate", X),
        lambda: closed.pump(),
        lambda: closed.resize(2),
        lambda: closed.wait_built(),
        lambda: minimize(problem, "cma", 40, workers=closed),
        lambda: problem.executor(workers=closed).submit(f, X[0]).result(),
        lambda: problem.executor(workers=closed, asynchronous=True).submit(f, X[0]),
        lambda: problem.to_pymoo(workers=closed).evaluate(X),
    )
    for take in takers:
        with pytest.raises(RuntimeError, match="this pool of workers is closed"):
            take()


def test_a_closed_pool_leaves_no_record(problem, closed, tmp_path):
    with pytest.raises(RuntimeError, match="this pool of workers is closed"):
        minimize(problem, "cma", 40, workers=closed, record=tmp_path / "run.sqlite")
    assert not list(tmp_path.iterdir())


def test_workers_have_no_workers():
    with WorkerPool(Nested(), 1) as pool:
        (said,) = pool.outcomes("evaluate", np.zeros((1, 3)))
    assert isinstance(said, RuntimeError) and "a worker cannot have workers of its own" in str(said)


SCRIPT = """
import numpy as np
import llm_problem as lp
from llm_problem_adapters.faults.objectives import Free
if __name__ == "__main__":
    with lp.WorkerPool(Free(), 2) as pool:
        print(np.array(pool.outcomes("evaluate", np.ones((3, 4)))))
"""


def test_a_script_may_come_by_standard_input():
    done = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[0. 0. 0.]\n", done.stderr


def test_what_only_a_command_line_defines_is_to_be_put_into_a_module():
    code = (
        "import llm_problem as lp\n"
        "from llm_problem_adapters.faults.objectives import Free\n"
        "class Mine(Free): pass\n"
        "lp.WorkerPool(Mine(), 2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "what a notebook or a command line defines is not there: put it into a module" in done.stderr


def test_a_model_that_is_no_longer_where_it_was(tmp_path):
    place = tmp_path / "model"
    shutil.copytree(Path(lp.__file__).parent / "models" / "bundled" / "tiny-gpt2", place)
    problem = lp.Problem(str(place), prose(4, 32), lp.subspaces.LoRAXS(rank=2, layers=1))
    place.rename(tmp_path / "elsewhere")
    with pytest.raises(NotBuilt, match=f"the problem was not built in a process of its own: .*{place}"):
        WorkerPool(problem, 2)


def test_what_cannot_be_built_or_sent():
    with pytest.raises(NotBuilt, match="FileNotFoundError: no such model here"):
        WorkerPool(NeverBuilt(), 2)
    hooked = Square()
    hooked.hook = lambda: None
    with pytest.raises(ValueError, match="cannot be pickled"):
        WorkerPool(hooked, 2)


def test_what_is_wrong_with_the_rest_is_said_before_workers_are_made():
    with pytest.raises(ValueError, match="there is no optimizer 'genetic-algorithmus'"):
        minimize(NeverBuilt(), "genetic-algorithmus", 20, workers=2)
    with pytest.raises(TypeError, match="populace"):
        minimize(NeverBuilt(), "genetic-algorithm", 20, workers=2, populace=20)


def test_more_workers_than_fit(tmp_path):
    with pytest.raises(TooManyWorkers, match=r"1000000 workers do not fit into memory: of this problem \d+ do"):
        WorkerPool(Square(), 1_000_000)
    with (
        WorkerPool(Square(), 1) as pool,
        pytest.raises(TooManyWorkers, match=r"1000000 workers do not fit into memory: of this problem \d+ do"),
    ):
        pool.resize(1_000_000)
    require_room(5, {"peak": 10}, 40)
    with pytest.raises(TooManyWorkers, match="6 workers do not fit into memory: of this problem 5 do"):
        require_room(6, {"peak": 10}, 49)
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 500\n")
    assert free_memory(tmp_path) == 1500  # a container's own limit, less what is used, but for what can be dropped
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) > 1500
