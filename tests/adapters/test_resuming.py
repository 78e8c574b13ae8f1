"""Records of runs, and resuming: the trajectory of the undisturbed run, and what is refused."""

import contextlib
import inspect
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.records import OtherRun, RecordError, ReplayDeparts, RunRecord
from llm_problem_adapters import GeneticAlgorithm, list_optimizers, minimize, replays
from llm_problem_adapters.replay_check import TRIED, trace
from llm_problem_adapters.replaying import plans_ahead, why_not

ID = "tiny-gpt2-prose-lora-xs-d32-v1"
BUDGET = 70
# Every one of our own and of pycma, and a fixed sample of the others'; `replay_check` tries them all.
KINDS = [name for name in list_optimizers() if ":" not in name] + [
    *("pymoo:CMAES", "pymoo:DE", "pymoo:GA", "pymoo:NelderMead", "pymoo:PSO", "pymoo:PatternSearch"),
    *("nevergrad:CMA", "nevergrad:Cobyla", "nevergrad:DE", "nevergrad:NGOpt", "nevergrad:OnePlusOne", "nevergrad:PSO"),
    *("optuna:CmaEsSampler", "optuna:TPESampler"),
]


class Quadratic:
    """‖x − 1‖², with what is needed for gradients, constraints and races; stops after so many evaluations."""

    dimension, sigma, bounds = 4, 1.0, (-5.0, 5.0)

    def __init__(self, stop=None, error=KeyboardInterrupt):
        self.x0, self.stop, self.error, self.seen = np.zeros(4), stop, error, 0

    def evaluate(self, X):
        if self.stop is not None and self.seen + len(X) > self.stop:
            raise self.error
        self.seen += len(X)
        return np.square(X - 1.0).sum(axis=1)

    def value_and_grad(self, x):
        return float(self.evaluate(x[None])[0]), 2 * (x - 1.0)


class Constrained(Quadratic):
    constraints = (("sum", 1.0),)

    def evaluate_all(self, X, split="search"):
        F = self.evaluate(X)[:, None]
        return F + (split == "dev"), X.sum(axis=1, keepdims=True) - 1.0, np.full(len(X), "ok")


class Other(Quadratic):
    pass


def equal(one, other):
    assert (one.evaluations, one.stop_reason, one.loss, one.best_loss) == (
        other.evaluations,
        other.stop_reason,
        other.loss,
        other.best_loss,
    )
    for name in ("losses", "status", "X", "x", "best_x", "violations"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is b is None) or (a == b).all() or np.array_equal(a, b, equal_nan=True), name


def stopped(path, problem, name, **options):
    """A run that was interrupted, or had not begun."""
    with contextlib.suppress(KeyboardInterrupt):
        minimize(problem, name, BUDGET, record=path, **options)


@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_run_goes_on_as_it_would_have(name, tmp_path):
    assert replays(name)
    path, options = tmp_path / "run.sqlite", {"seed": 3, "keep_x": True}
    whole = minimize(Quadratic(), name, BUDGET, **options)
    stopped(path, Quadratic(stop=20), name, **options)
    stopped(path, Quadratic(stop=15), name, resume=True, **options)
    with RunRecord.read(path) as record:
        before = record.tail.evaluations
    problem = Quadratic()
    result = minimize(problem, name, BUDGET, record=path, resume=True, **options)
    equal(result, whole)
    gradients = int((result.status == "gradient").sum())
    assert problem.seen <= BUDGET - before <= problem.seen + gradients
    with RunRecord.read(path) as record:
        rows = list(record.rows())
    assert [row.loss for row in rows if row.status == "ok"] == whole.losses[whole.status == "ok"].tolist()
    kinds = [kind for kind, *_ in record_events(path)]
    assert kinds[:3] == ["started", "stopped", "resumed"] and kinds[-1] == "finished"


def record_events(path):
    with RunRecord.read(path) as record:
        return record.events()


@pytest.mark.parametrize("name", ["genetic-algorithm", "nevergrad:DE", "cma", "optuna:TPESampler"])
def test_constraints_and_choices_by_dev_go_on_too(name, tmp_path):
    path, options = (
        tmp_path / "run.sqlite",
        {"seed": 3, "keep_x": True, "generalisation": {"choose": "dev", "every": 9}},
    )
    whole = minimize(Constrained(), name, BUDGET, **options)
    stopped(path, Constrained(stop=60), name, **options)
    problem = Constrained()
    result = minimize(problem, name, BUDGET, record=path, resume=True, **options)
    equal(result, whole)
    assert result.generalisation == whole.generalisation
    again = Constrained()
    minimize(again, name, BUDGET, record=path, resume=True, **options)
    assert 0 < problem.seen < BUDGET + whole.generalisation.evaluations
    assert again.seen == 0


def test_the_callback_is_shown_what_was_recorded_and_when(tmp_path):
    path, shown = tmp_path / "run.sqlite", []
    options = {"seed": 1, "batch_size": 5, "callback": lambda progress: shown.append(progress)}
    stopped(path, Quadratic(stop=30), "random-search", **options)
    first = [(p.evaluations, p.losses.tolist(), p.seconds) for p in shown]
    shown.clear()
    result = minimize(Quadratic(), "random-search", BUDGET, record=path, resume=True, **options)
    assert [(p.evaluations, p.losses.tolist(), p.seconds) for p in shown[: len(first)]] == first
    assert (np.diff([p.seconds for p in shown]) >= 0).all()
    assert result.history.seconds.iloc[-1] == shown[-1].seconds


def test_the_batch_in_hand_is_on_the_disk_before_anyone_hears_of_it(tmp_path):
    path, told = tmp_path / "run.sqlite", []

    def look(progress):
        with RunRecord.read(path) as record:
            told.append(record.tail.evaluations - progress.evaluations)

    minimize(Quadratic(), "cma", 30, record=path, callback=look)
    assert len(told) > 3 and set(told) == {0}


def test_a_finished_run_is_said_to_be_finished(tmp_path, capfd):
    path = tmp_path / "run.sqlite"
    whole = minimize(Quadratic(), "cma", 30, record=path)
    problem = Quadratic()
    equal(minimize(problem, "cma", 30, record=path, resume=True), whole)
    assert problem.seen == 0
    assert "run.sqlite: this run is finished (budget); nothing is evaluated" in capfd.readouterr().err
    assert record_events(path)[-1][0] == "finished"


def test_an_extended_run_is_finished_when_its_own_budget_is_spent(tmp_path, capfd):
    path, options = tmp_path / "r.sqlite", {"horizon": 40, "seed": 1, "resume": True}
    for budget in (20, 40):
        minimize(Quadratic(), "genetic-algorithm", budget, record=path, **options)
    capfd.readouterr()
    minimize(Quadratic(), "genetic-algorithm", 40, record=path, **options)
    assert "this run is finished (budget); nothing is evaluated" in capfd.readouterr().err
    with RunRecord.read(path) as record:
        assert [kind for kind, *_ in record.events()] == ["started", "finished", "resumed", "finished"]


def test_arguments_that_are_refused_leave_no_record(tmp_path):
    path = tmp_path / "r.sqlite"
    with pytest.raises(ValueError, match="errors must be one of"):
        minimize(Quadratic(), "cma", 20, record=path, errors="ignore")
    assert not path.exists()
    minimize(Quadratic(), "cma", 20, record=path)


def test_the_first_of_a_batch_is_on_the_disk_before_the_others_are_evaluated(tmp_path):
    """How long a part may be is not known before one was evaluated."""
    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    minimize(problem, "random-search", 12, batch_size=12, record=tmp_path / "r.sqlite", start_at_x0=False)
    with RunRecord.read(tmp_path / "r.sqlite") as record:
        assert [row.batch for row in record.rows()][:3] == [1, 2, 2]


def test_a_record_is_not_overwritten_and_resuming_nothing_begins(tmp_path):
    path = tmp_path / "run.sqlite"
    minimize(Quadratic(), "cma", 10, record=path, resume=True)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"run\.sqlite exists already .* resume=True"):
        minimize(Quadratic(), "cma", 10, record=path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="nothing to resume from"):
        minimize(Quadratic(), "cma", 10, resume=True)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seed": 4}, "seed 3 and 4"),
        ({"optimizer": "random-search"}, 'optimizer .*"genetic-algorithm".* and .*"random-search"'),
        ({"population": 12}, "optimizer .*population"),
        ({"start_at_x0": False}, "start_at_x0 true and false"),
        ({"batch_size": 3}, "batch_size"),
        ({"horizon": 90}, "horizon 70 and 90"),
        ({"problem": Other()}, "problem .*Other"),
        ({"errors": "record"}, 'errors "raise" and "record"'),
    ],
)
def test_another_run_is_refused(tmp_path, change, what):
    path = tmp_path / "run.sqlite"
    stopped(path, Quadratic(stop=60), "genetic-algorithm", seed=3, population=10)
    call = {"problem": Quadratic(), "optimizer": "genetic-algorithm", "seed": 3, "population": 10, **change}
    if call["optimizer"] == "random-search":
        del call["population"]
    with pytest.raises(OtherRun, match=what):
        minimize(budget=BUDGET, record=path, resume=True, **call)
    minimize(Quadratic(), "genetic-algorithm", BUDGET, seed=3, population=10, record=path, resume=True)


def test_a_run_stopped_before_its_horizon_gets_a_larger_budget(tmp_path):
    path, options = tmp_path / "run.sqlite", {"seed": 2, "horizon": 80}
    minimize(Quadratic(), "spsa", 40, record=path, **options)
    result = minimize(Quadratic(), "spsa", 80, record=path, resume=True, **options)
    whole = minimize(Quadratic(), "spsa", 80, **options)
    assert result.losses.tolist() == whole.losses.tolist()
    with pytest.raises(ValueError, match="spsa planned for 80 evaluations"):
        minimize(Quadratic(), "spsa", 90, record=path, resume=True, **options)
    with pytest.raises(ValueError, match="begun with a budget of 40"):
        minimize(Quadratic(), "spsa", 30, record=path, resume=True, **options)


def test_beyond_the_horizon_where_nothing_follows_from_it(tmp_path):
    path = tmp_path / "run.sqlite"
    minimize(Quadratic(), "cma", 40, record=path)
    result = minimize(Quadratic(), "cma", 90, record=path, resume=True)
    assert result.losses.tolist() == minimize(Quadratic(), "cma", 90).losses.tolist()


@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith("nevergrad:")])
def test_what_is_said_not_to_plan_ahead_does_not(name):
    traces = {trace(name, TRIED["budget"] * factor) for factor in (1, 3)}
    assert plans_ahead(name) or len(traces) == 1


def test_what_does_not_replay_is_recorded_and_not_resumed(tmp_path):
    assert not replays("nevergrad:CmaFmin2") and "clock" in why_not("nevergrad:CmaFmin2")
    path = tmp_path / "run.sqlite"
    stopped(path, Quadratic(stop=30), "nevergrad:CmaFmin2")
    with pytest.raises(ValueError, match="CmaFmin2 cannot be resumed, because the same seed gives another"):
        minimize(Quadratic(), "nevergrad:CmaFmin2", BUDGET, record=path, resume=True)


class Moody(GeneticAlgorithm):
    """Of a library whose next version draws otherwise."""

    version = 1

    def _ask(self):
        return super()._ask() + (0.0 if self.version == 1 else 1e-9)


def test_an_optimizer_that_departs_is_found_out_and_its_version_named(tmp_path, monkeypatch):
    path = tmp_path / "run.sqlite"
    stopped(path, Quadratic(stop=60), Moody(population=10))
    monkeypatch.setattr(Moody, "version", 2)
    before = record_rows(path)
    with pytest.raises(ReplayDeparts, match=r"at row 2 .* the optimizer does not repeat"):
        minimize(Quadratic(), Moody(population=10), BUDGET, record=path, resume=True)
    from llm_problem_adapters import identity

    monkeypatch.setattr(identity, "versions", lambda: {"numpy": "9.9"})
    with pytest.raises(ReplayDeparts, match=r"Other versions .*numpy \d+\.\d+\.\d+, here 9\.9"):
        minimize(Quadratic(), Moody(population=10), BUDGET, record=path, resume=True)
    assert record_rows(path) == before


def record_rows(path):
    with RunRecord.read(path) as record:
        return [(row.number, row.loss) for row in record.rows()]


def test_an_error_costs_nothing_that_was_recorded_and_the_batch_is_evaluated_again(tmp_path):
    path = tmp_path / "run.sqlite"
    with pytest.raises(RuntimeError) as caught:
        minimize(Quadratic(stop=20, error=RuntimeError("a cable")), "cma", BUDGET, record=path)
    kept = len(record_rows(path))
    assert kept == caught.value.partial_result.evaluations > 8
    assert minimize(Quadratic(), "cma", BUDGET, record=path, resume=True).losses.tolist() == (
        minimize(Quadratic(), "cma", BUDGET).losses.tolist()
    )


def test_every_option_of_minimize_is_compared_or_does_not_matter():
    """A new option must be put into the record's identity, or here."""
    compared = {
        "problem",
        "optimizer",
        "seed",
        "batch_size",
        "start_at_x0",
        "horizon",
        "race",
        "generalisation",
        "errors",
    }
    free = {"budget", "callback", "keep_x", "record", "resume", "record_points", "limits", "workers", "options"}
    assert set(inspect.signature(minimize).parameters) <= compared | free


def test_a_killed_run_of_a_language_model_goes_on_as_it_would_have(tmp_path):
    code = f"""
import os, signal
import torch
torch.set_num_threads(1)
import llm_problem as lp
from llm_problem_adapters import minimize
def kill(progress):
    if progress.evaluations >= 25:
        os.kill(os.getpid(), signal.SIGKILL)
minimize(lp.make("{ID}"), "cma", 60, seed=2, record="run.sqlite", callback=kill)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    path = tmp_path / "run.sqlite"
    assert 25 <= len(record_rows(path)) < 60
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = minimize(lp.make(ID), "cma", 60, seed=2, keep_x=True)
        equal(minimize(lp.make(ID), "cma", 60, seed=2, keep_x=True, record=path, resume=True), whole)
    finally:
        torch.set_num_threads(threads)
    with RunRecord.read(path) as record:
        assert lp.ProblemSpec.from_dict(record.identity["spec"]) == lp.make(ID).spec
        assert record.identity["problem"]["fingerprint"] == lp.make(ID).fingerprint


def test_a_record_in_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((RecordError, OSError)):
        minimize(Quadratic(), "cma", 10, record=tmp_path / "file" / "run.sqlite")
    assert os.listdir(tmp_path) == ["file"]
