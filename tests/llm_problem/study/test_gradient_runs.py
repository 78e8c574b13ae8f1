"""Runs of optimizers that are given gradients: what is charged is no failure, and they are marked."""

import collections
import csv

import llm_problem_adapters
from llm_problem.study.report import print_outcome
from llm_problem.study.runner import run_optimizers

ID = "tiny-bert-prose-random-d32-v1"


def test_gradients_are_charged_and_marked_and_no_failures(tmp_path, capsys):
    names = ["adam", "random-search"]
    outcome = run_optimizers(ID, names, llm_problem_adapters.minimize, budget=10, seed=0, out=str(tmp_path / "out"))
    adam, search = outcome.rows
    assert adam["used_gradients"] is True and "used_gradients" not in search
    assert adam["non_finite"] == search["non_finite"] == 0
    with open(tmp_path / "out" / "history.csv", newline="", encoding="utf-8") as file:
        status = collections.Counter((row["optimizer"], row["status"]) for row in csv.DictReader(file))
    assert status == {("adam", "ok"): 4, ("adam", "gradient"): 6, ("random-search", "ok"): 10}
    print_outcome(outcome)
    printed = capsys.readouterr().out
    assert "adam (given gradients)" in printed and "random-search (given" not in printed
    assert "given gradients: a reference for gradient-free search, and none itself" in printed
