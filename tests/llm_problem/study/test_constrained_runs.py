"""Runs of a constrained problem: what stands in the folder and in the table."""

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

import llm_problem as lp
from llm_problem.study import runner
from llm_problem.study.folder import HISTORY, RunFolder
from llm_problem.study.report import print_outcome
from llm_problem_adapters import minimize


@pytest.fixture(scope="module")
def make(tiny_gpt2):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    return lambda limit: lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), constraints=limit)


@pytest.fixture
def run(make, tmp_path, monkeypatch):
    def run(limit):
        monkeypatch.setattr(runner, "make", lambda id: make(limit))
        names = ["random-search", "cma"]
        outcome = runner.run_optimizers("p", names, minimize, budget=40, seed=1, out=str(tmp_path / "out"))
        with open(tmp_path / "out" / "history.csv", newline="", encoding="utf-8") as file:
            return outcome, list(csv.DictReader(file))

    return run


def test_a_constrained_run_records_violations_and_counts_what_is_feasible(run, tmp_path):
    outcome, rows = run({"drift": 0.01})
    assert tuple(rows[0]) == (*HISTORY, "violation")
    summary = json.loads((tmp_path / "out" / "result.json").read_text())
    for row in summary["results"]:
        mine = [line for line in rows if line["optimizer"] == row["optimizer"]]
        losses, amounts = (np.array([float(line[name]) for line in mine]) for name in ("loss", "violation"))
        assert (amounts > 0).any() and row["feasible"] is True
        best = np.minimum.accumulate(np.where(amounts == 0, losses, np.inf))
        np.testing.assert_array_equal([float(line["best_loss"]) for line in mine], best)
        assert row["best_loss"] == best[-1]
        assert row["test"]["drift"] <= 0.01
    assert outcome.exit_code == 0


def test_a_run_that_finds_nothing_feasible_says_so(run):
    outcome, rows = run({"loss": 0.0})
    assert {row["best_loss"] for row in rows} == {"inf"}
    assert [row["feasible"] for row in outcome.rows] == [False, False]
    console = Console(width=160, record=True, file=io.StringIO())
    print_outcome(outcome, console)
    assert console.export_text().count("(nothing feasible)") == 2


def test_the_folder_leaves_infeasible_losses_out_of_the_best(tmp_path):
    with RunFolder(tmp_path / "run", constrained=True) as folder:
        losses, status, violations = np.array([0.5, 2.0, 1.0]), np.full(3, "ok"), np.array([0.25, 0.0, np.inf])
        folder.add_evaluations("a", 1, losses, status, np.inf, 0.0, violations)
    with open(tmp_path / "run" / "history.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["best_loss"] for row in rows] == ["inf", "2.0", "2.0"]
    assert [row["violation"] for row in rows] == ["0.25", "0.0", "inf"]
