"""`minimize(…, workers=k)` and the faces over workers: the serial run, to the bit."""

import json
import warnings

import nevergrad as ng
import numpy as np
import pytest
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.optimize import minimize as pymoo_minimize

import llm_problem as lp
from llm_problem.cli import main
from llm_problem.records import RunRecord
from llm_problem_adapters import list_optimizers, minimize, replays, takes_gradients
from llm_problem_adapters.faults.objectives import Misbehaving
from tests.llm_problem.workers.problems import Limited

NAME = "tiny-gpt2-prose-lora-xs-d32-v1"
GENERATIONAL = [
    name
    for name in ("cma", *list_optimizers(), "nevergrad:TwoPointsDE", "pymoo:PSO", "pymoo:ES")
    if ":" not in name or name in ("nevergrad:TwoPointsDE", "pymoo:PSO", "pymoo:ES")
]
BUDGET = 20


@pytest.fixture(scope="module")
def problem():
    return lp.make(NAME)


@pytest.fixture(scope="module")
def pool(problem):
    with lp.WorkerPool(problem, 2) as pool:
        yield pool


def same(result, expected):
    assert result.losses.tobytes() == expected.losses.tobytes()
    assert result.status.tolist() == expected.status.tolist()
    assert result.x.tobytes() == expected.x.tobytes() and result.best_x.tobytes() == expected.best_x.tobytes()
    assert (result.loss, result.stop_reason) == (expected.loss, expected.stop_reason)


@pytest.mark.parametrize("name", sorted(set(GENERATIONAL)))
def test_every_optimizer_runs_as_in_one_process(name, problem, pool):
    options = {"seed": 5, "batch_size": 8 if not takes_gradients(name) else None}
    if not replays(name):
        pytest.skip("two serial runs of it differ already")
    same(minimize(problem, name, BUDGET, workers=pool, **options), minimize(problem, name, BUDGET, **options))


def test_any_number_of_workers_gives_one_run_and_one_record(problem, pool, tmp_path):
    expected = minimize(problem, "genetic-algorithm", 60, seed=2, record=tmp_path / "0")
    for k in (1, 2, 4):
        pool.resize(k)
        same(minimize(problem, "genetic-algorithm", 60, seed=2, record=tmp_path / str(k), workers=pool), expected)
    pool.resize(2)
    rows = []
    for k in (0, 1, 2, 4):
        with RunRecord.read(tmp_path / str(k)) as record:
            rows.append([(row.digest, row.loss, row.status, row.role, row.batch) for row in record.rows()])
    assert rows[0][0] and all(found == rows[0] for found in rows[1:])


def test_a_run_goes_on_with_another_number_of_workers(problem, pool, tmp_path):
    path = tmp_path / "run"

    def stop(progress):
        if progress.evaluations >= 30:
            raise KeyboardInterrupt

    minimize(problem, "cma", 80, seed=1, record=path, callback=stop, workers=pool)
    same(minimize(problem, "cma", 80, seed=1, record=path, resume=True), minimize(problem, "cma", 80, seed=1))


def test_races_minibatches_and_constraints_go_through_workers(problem, pool):
    same(
        minimize(problem, "genetic-algorithm", 40, race=True, workers=pool, population=10),
        minimize(problem, "genetic-algorithm", 40, race=True, population=10),
    )
    limited = Limited()
    result, expected = (minimize(limited, "cma", 40, workers=workers) for workers in (1, None))
    same(result, expected)
    assert result.violations.tobytes() == expected.violations.tobytes()
    with pytest.raises(ValueError, match="make a pool of the problem"):
        minimize(limited, "cma", 40, workers=pool)
    with pytest.raises(ValueError, match="a pool has its own limits"):
        minimize(problem, "cma", 40, workers=pool, limits={"evaluation_seconds": 9})


@pytest.mark.parametrize(
    ("deed", "status", "limits"), [("is killed", "failed", {}), ("hangs", "timed out", {"evaluation_seconds": 0.5})]
)
def test_what_misbehaves_in_a_worker_is_recorded_and_the_rest_is_whole(deed, status, limits):
    problem = Misbehaving(deed, one_in=9)
    result = minimize(problem, "random-search", 40, batch_size=20, workers=2, keep_x=True, limits=limits)
    spoilt = np.array([problem.spoilt(x) for x in result.X])
    assert 1 <= spoilt.sum() < 10
    assert (result.status == np.where(spoilt, status, "ok")).all()
    assert result.losses[~spoilt].tolist() == np.square(result.X[~spoilt] - 1).sum(axis=1).tolist()


def test_what_a_problem_raises_in_a_worker_is_raised_or_recorded():
    problem = Misbehaving("raises")
    with pytest.raises(RuntimeError, match="this objective fails here"):
        minimize(problem, "random-search", 60, batch_size=20, workers=2)
    found, expected = (
        minimize(problem, "random-search", 60, batch_size=20, errors="record", workers=workers) for workers in (2, None)
    )
    assert found.status.tolist() == expected.status.tolist() and "failed" in found.status
    same(minimize(Misbehaving("NaN"), "cma", 60, workers=2), minimize(Misbehaving("NaN"), "cma", 60))
    with pytest.raises(ValueError, match="the losses of evaluate must hold numbers, got None"):
        minimize(Misbehaving("None"), "random-search", 60, batch_size=20, workers=2)


@pytest.mark.parametrize("batch_mode", [False, True])
def test_nevergrad_runs_on_workers_as_it_does_alone(problem, pool, batch_mode):
    def run(executor):
        f = problem.to_nevergrad()
        f.parametrization.random_state.seed(4)
        optimizer = ng.optimizers.TwoPointsDE(f.parametrization, budget=60, num_workers=10)
        told = []
        optimizer.register_callback("tell", lambda _, candidate, loss: told.append((candidate.value.tobytes(), loss)))
        return told, optimizer.minimize(f, executor=executor, batch_mode=batch_mode).value.tobytes()

    with problem.executor(batch=10, workers=pool) as executor:
        assert run(executor) == run(problem.executor(batch=10))
    assert pool.outcomes("evaluate", problem.x0[None]) == [problem(problem.x0)]  # lent, and not ended


def test_asynchronous_results_come_as_they_are_there_and_say_so(problem, pool):
    f = problem.to_nevergrad()
    executor = problem.executor(workers=pool, asynchronous=True)
    assert "not repeatable" in repr(executor) and not executor.repeatable
    optimizer = ng.optimizers.TwoPointsDE(f.parametrization, budget=40, num_workers=4)
    told = []
    optimizer.register_callback("tell", lambda _, candidate, loss: told.append((candidate.value.copy(), loss)))
    optimizer.minimize(f, executor=executor)
    assert len(told) == 40
    assert all(loss == f(x) for x, loss in told)
    with pytest.raises(ValueError, match="x must have shape"):
        executor.submit(f, np.zeros(3))
    with pytest.raises(ValueError, match="asynchronous evaluation needs workers"):
        problem.executor(asynchronous=True)


def test_pymoo_evaluates_a_generation_over_workers(problem, pool):
    def run(face):
        result = pymoo_minimize(face, DE(pop_size=20, sampling=face.sampling), ("n_gen", 3), seed=1, save_history=True)
        return result.X.tobytes(), result.F.tobytes(), [each.pop.get("F").tobytes() for each in result.history]

    assert run(problem.to_pymoo(workers=pool)) == run(problem.to_pymoo())
    with pytest.raises(ValueError, match="workers take whole generations"):
        problem.to_pymoo(workers=pool, elementwise=True)


def test_the_command_runs_with_workers_as_without(tmp_path, capsys):
    words = ["run", NAME, "--optimizer", "cma", "--budget", "20"]
    losses = []
    for more in ([], ["--workers", "2"]):
        out = tmp_path / str(len(losses))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert main([*words, "--out", str(out), *more]) == 0
        rows = json.loads((out / "result.json").read_text())["results"]
        losses.append([(row["best_loss"], row["loss"]) for row in rows])
    assert losses[0] == losses[1]
    assert main([*words, "--workers", "0"]) == 2
    assert "--workers must be at least 1, got 0" in capsys.readouterr().err


def test_search_examples_drawn_anew_are_the_same_ones_for_workers():
    """A minibatch has a number, which follows from the evaluations spent and travels with the points."""
    rows = [{"text": f"line {i} of {'good' if i % 2 else 'bad'} news", "label": i % 2} for i in range(60)]
    task = lp.tasks.Classification.from_records(
        rows, text="text", label="label", prompt="{text}:", labels={0: " a", 1: " the"}, search_size=8
    )
    problem = lp.Problem("tiny-gpt2", task, lp.subspaces.LoRAXS(rank=2, layers=1), minibatch=4)
    options = {"seed": 2, "batch_size": 8, "generalisation": {"resample": 10, "choose": "dev", "every": 20}}
    expected = minimize(problem, "cma", 60, **options)
    assert len({problem.evaluate(problem.x0[None], sample=k)[0] for k in range(6)}) > 1  # they do differ
    for workers in (1, 2):
        found = minimize(problem, "cma", 60, workers=workers, **options)
        same(found, expected)
        assert found.generalisation.history.equals(expected.generalisation.history)
