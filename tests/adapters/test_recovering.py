"""Large points: a record keeps their hashes, and the optimizer, asked again, the points."""

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.records import OtherRun, ReplayDeparts, RunRecord, write_csv
from llm_problem_adapters import GeneticAlgorithm, minimize, recorded_points
from llm_problem_adapters import recording as recording_module
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.recording import LARGE

D = 8
NAMES = ("genetic-algorithm", "cma", "spsa", "pymoo:DE", "nevergrad:Cobyla", "optuna:TPESampler")


@pytest.fixture(autouse=True)
def eight_are_many(monkeypatch):
    monkeypatch.setattr(recording_module, "LARGE", D - 1)


class Dev(Free):
    def evaluate_all(self, X, split="search"):
        return self.evaluate(X)[:, None] + 1.0, np.empty((len(X), 0)), np.full(len(X), "ok")


@pytest.mark.parametrize("name", NAMES)
def test_every_point_is_found_again_to_the_bit(name, tmp_path):
    path = tmp_path / "run.sqlite"
    minimize(Free(D), name, 25, seed=3, record=path, horizon=40)
    result = minimize(Free(D), name, 40, seed=3, record=path, resume=True, horizon=40, keep_x=True)
    with RunRecord.read(path) as record:
        rows = list(record.rows())
    kept = [row.number for row in rows if row.x is not None]
    assert 0 < len(kept) < len(rows)
    assert min(rows, key=lambda row: row.loss).number in kept
    before, problem = path.read_bytes(), Free(D)
    X = recorded_points(path, range(1, len(rows) + 1), problem)
    assert problem.evaluations == 0 and path.read_bytes() == before
    asked = np.array([row.role == "search" or row is rows[-1] for row in rows])  # the answer to 25 is no part of 40
    assert X[asked].tobytes() == result.X.tobytes()
    assert np.array_equal(recorded_points(path, [kept[-1]]), X[[kept[-1] - 1]])  # needs no problem
    with pytest.raises(ValueError, match=r"llm_problem_adapters\.recorded_points finds them"):
        write_csv(path, tmp_path / "points.csv", points=True)
    assert write_csv(path, tmp_path / "losses.csv") == len(rows)


def test_gradients_and_looks_at_dev_have_points_too(tmp_path):
    path, choose = tmp_path / "run.sqlite", {"choose": "dev", "every": 5}
    minimize(Dev(D), "genetic-algorithm", 30, record=path, generalisation=choose)
    with RunRecord.read(path) as record:
        rows = list(record.rows())
    X = recorded_points(path, range(1, len(rows) + 1), Dev(D))
    assert sum(row.role == "dev" and row.x is None for row in rows) > 1
    for row, x in zip(rows, X, strict=True):
        assert row.loss == np.square(x - 1.0).sum() + (row.role == "dev")


def test_what_cannot_be_asked_again_keeps_its_points(tmp_path):
    for name in ("nevergrad:CmaFmin2", GeneticAlgorithm(population=12)):
        path = tmp_path / f"{getattr(name, 'name', 'other')}.sqlite"
        minimize(Free(D), name, 20, record=path)
        with RunRecord.read(path) as record:
            assert all(row.x is not None for row in record.rows())


def test_other_problems_rows_and_optimizers_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "run.sqlite"
    minimize(Free(D), "genetic-algorithm", 30, record=path, population=12)
    with pytest.raises(ValueError, match=r"rows 1 to 30, and not \[0, 31\]"):
        recorded_points(path, [0, 31], Free(D))
    with pytest.raises(ValueError, match="no description of its problem: give the problem"):
        recorded_points(path, range(1, 31))
    with pytest.raises(OtherRun, match="of another problem; recorded and given: dimension 8 and 9"):
        recorded_points(path, range(1, 31), Free(D + 1))
    ask = GeneticAlgorithm._ask
    monkeypatch.setattr(GeneticAlgorithm, "_ask", lambda self: ask(self) + 1e-9)
    with pytest.raises(ReplayDeparts, match="at row 2"):
        recorded_points(path, range(1, 31), Free(D))


def test_a_full_vector_is_recorded_small_and_found_by_its_description(tmp_path, monkeypatch):
    monkeypatch.setattr(recording_module, "LARGE", LARGE)
    path, problem = tmp_path / "run.sqlite", lp.make("tiny-gpt2-prose-full-d334464-v1")
    result = minimize(problem, "simulated-annealing", 6, record=path, keep_x=True)
    worse = [i + 1 for i in range(6) if result.losses[i] > result.losses[: i + 1].min()]
    assert worse and path.stat().st_size < (7 - len(worse)) * 8 * problem.dimension
    assert recorded_points(path, worse).tobytes() == result.X[[i - 1 for i in worse]].tobytes()
