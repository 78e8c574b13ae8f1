"""`llm-problem run --resume`: a run goes on in its folder, and another one is refused."""

import csv
import json
import os
import re
import sqlite3
import time

import pytest

import llm_problem as lp
import llm_problem_adapters
from llm_problem.cli import main
from llm_problem.records import RunRecord
from llm_problem.records.lock import WriterLock

ID = "tiny-gpt2-prose-lora-xs-d32-v1"
real_minimize = llm_problem_adapters.minimize


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Every command runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def run(*arguments, budget=12, optimizers=("random-search", "pymoo:PSO"), seed=0, out="out"):
    words = ["run", ID, "--optimizer", *optimizers, "--budget", str(budget), "--seed", str(seed), "--out", out]
    return main([*words, *arguments])


def history_of(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def results_of(folder):
    rows = json.loads((folder / "result.json").read_text())["results"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture
def interrupting(monkeypatch):
    """Let `minimize` be interrupted in one optimizer's run, after so many evaluations."""

    def install(optimizer, evaluations):
        def minimize(problem, name, budget, callback, **options):
            def interrupt(progress):
                callback(progress)
                if name == optimizer and progress.evaluations >= evaluations:
                    raise KeyboardInterrupt

            return real_minimize(problem, name, budget, callback=interrupt, **options)

        monkeypatch.setattr(llm_problem_adapters, "minimize", minimize)

    return install


def test_an_interrupted_run_goes_on_in_its_folder(tmp_path, interrupting, monkeypatch, capsys):
    assert run(out="whole") == 0
    interrupting("pymoo:PSO", 5)
    assert run() == 130
    assert "to go on: llm-problem run" in capsys.readouterr().err
    monkeypatch.setattr(llm_problem_adapters, "minimize", real_minimize)
    assert run("--resume") == 0
    assert history_of(tmp_path / "out") == history_of(tmp_path / "whole")
    assert results_of(tmp_path / "out") == results_of(tmp_path / "whole")
    records = sorted((tmp_path / "out" / "records").iterdir())
    assert [path.name for path in records] == ["pymoo.PSO.sqlite", "random-search.sqlite"]
    for path in records:
        with RunRecord.read(path) as record:
            assert record.tail.evaluations == 12 and record.finished == "budget"


def test_resuming_begins_where_there_is_nothing(tmp_path):
    assert run("--resume", optimizers=["cma"]) == 0
    assert len(history_of(tmp_path / "out")) == 12


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"budget": 20}, "budget 12, not 20"),
        ({"optimizers": ["cma"]}, "optimizers .*random-search.*, not .*cma"),
    ],
)
def test_another_run_is_not_gone_on_with(tmp_path, capsys, changes, what):
    assert run() == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run("--resume", **changes) == 2
    error = capsys.readouterr().err
    assert "out is of another run" in error
    assert re.search(what, error)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_does_not_start_at_x0(tmp_path, interrupting, monkeypatch, capsys):
    """Another one than the run that does, from its first evaluation on, and resumed as what it is."""
    pretrained = lp.make(ID)
    loss = pretrained(pretrained.x0)
    for out, words in (("with", ["--start-at-x0"]), ("whole", ["--no-start-at-x0"])):
        assert run(*words, out=out) == 0
        firsts = [float(row["loss"]) == loss for row in history_of(tmp_path / out) if row["evaluation"] == "1"]
        assert firsts == [out == "with"] * 2
        assert json.loads((tmp_path / out / "config.json").read_text())["start_at_x0"] == (out == "with")
    interrupting("pymoo:PSO", 5)
    assert run("--no-start-at-x0") == 130
    assert re.search("to go on: llm-problem run .* --no-start-at-x0$", capsys.readouterr().err, flags=re.M)
    monkeypatch.setattr(llm_problem_adapters, "minimize", real_minimize)
    assert run("--resume") == 2
    assert "start_at_x0 False, not True" in capsys.readouterr().err
    assert run("--resume", "--no-start-at-x0") == 0
    assert history_of(tmp_path / "out") == history_of(tmp_path / "whole")


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    assert run("--resume") == 2
    assert "out is no folder of a run that could go on" in capsys.readouterr().err
    assert main(["run", ID, "--optimizer", "cma", "--budget", "3", "--resume"]) == 2
    assert "--resume needs the run's folder: --out DIR" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["letter.txt"]


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_driver_in_a_folder_is_refused_and_touches_nothing(tmp_path, capsys):
    assert run(optimizers=["cma"]) == 0
    lock = WriterLock(tmp_path / "out" / "run")
    before = files_of(tmp_path)
    started = time.monotonic()
    assert run("--resume", optimizers=["cma"]) == 1
    assert time.monotonic() - started < 1 and files_of(tmp_path) == before
    assert re.search(rf"out/run is being written by process {os.getpid()} on host", capsys.readouterr().err)
    lock.release()
    assert run("--resume", optimizers=["cma"]) == 0
    assert not (tmp_path / "out" / "run.lock").exists()


def test_a_record_that_cannot_be_used_is_said_in_a_line(tmp_path, capsys):
    assert run() == 0
    path = tmp_path / "out" / "records" / "random-search.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    before = path.read_bytes()
    assert run("--resume") == 1
    said = capsys.readouterr()
    assert "random-search.sqlite is a record of version 9" in said.out and "Traceback" not in said.err
    assert path.read_bytes() == before


def test_what_cannot_go_on_is_not_said_to(tmp_path, interrupting, capsys):
    interrupting("nevergrad:CmaFmin2", 3)
    assert run(optimizers=["nevergrad:CmaFmin2"]) == 130
    said = capsys.readouterr()
    assert "to go on" not in said.err and "no going on with nevergrad:CmaFmin2" in said.err
    assert "picture" not in said.out and not (tmp_path / "out" / "convergence.png").exists()
    assert main(["list", "--optimizers", "nevergrad:CmaFmin2"]) == 0
    assert capsys.readouterr().out == "nevergrad:CmaFmin2 (cannot be resumed)\n"


def test_limits_of_one_evaluation_reach_the_run_and_the_command_to_go_on(tmp_path, monkeypatch, capsys):
    """That they hold is tested where they are."""
    seen = []

    def minimize(problem, name, budget, limits, **options):
        seen.append(limits)
        raise KeyboardInterrupt

    monkeypatch.setattr(llm_problem_adapters, "minimize", minimize)
    assert run("--evaluation-seconds", "30", "--memory", "2.5", optimizers=["cma"]) == 130
    assert seen == [{"seconds": None, "evaluation_seconds": 30.0, "memory": 2_500_000_000}]
    assert "--resume --evaluation-seconds 30 --memory 2.5" in capsys.readouterr().err
    for wrong in ("--evaluation-seconds", "--memory"):
        assert run(wrong, "0", out="other") == 2
        assert f"{wrong} must be positive" in capsys.readouterr().err


def test_a_time_limit_ends_a_run_with_its_own_code(tmp_path, capsys):
    assert run("--seconds", "0.5", budget=100_000) == 3
    assert "to go on: " in capsys.readouterr().err
    (row,) = results_of(tmp_path / "out")
    assert row["stop_reason"] == "time limit" and row["test"] == {}
    assert run("--seconds", "0") == 2
