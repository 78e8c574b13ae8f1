"""`llm-problem doctor` says what there is and finds what is wrong."""

import json

import numpy as np

import llm_problem as lp
from llm_problem.cli import main


def test_the_doctor_finds_nothing_wrong_here(capsys):
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["numpy"] == np.__version__
    assert {"processor", "threads", "gemm", "cache"} <= found.keys()
    assert len(found["checks"]) == 5 and all(check["holds"] for check in found["checks"])


def test_the_doctor_finds_an_evaluator_that_is_off(capsys, monkeypatch):
    evaluate = lp.Problem.evaluate

    def off(problem, X, sample=None):
        return evaluate(problem, X, sample) + 1e-3 * (problem.spec.evaluator == "auto")

    monkeypatch.setattr(lp.Problem, "evaluate", off)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "FAILED tiny-gpt2-prose-lora-xs-d32-v1: the fast evaluator agrees with the reference: to 1.0e-03" in printed
    assert "processor" in printed
