"""What is measured is what was asked for: the books on the whole budget, both runs of Nevergrad alike."""

import json

import llm_problem as lp
from llm_problem.benchmarks.bookkeeping import QUICK_BUDGET, FreeProblem
from llm_problem_adapters.benchmarks import WORKERS, ask_and_tell, main, nevergrad_run, with_books


def test_both_spend_the_whole_budget():
    for run in (with_books, ask_and_tell):
        problem = FreeProblem(dimension=4)
        run(problem, 120, 0)
        assert problem.evaluations == 120


def test_figures_are_printed_and_written(tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["bookkeeping", "--quick", "--rounds", "3", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["sections"]["bookkeeping"]
    assert set(figures["evaluations"].values()) == {QUICK_BUDGET}
    whole, part = figures["seconds"].values()
    assert len(whole) == len(part) == 3 and 0 < min(whole) < 0.01
    assert "ms an evaluation" in capsys.readouterr().out


def test_an_executor_changes_the_time_and_not_the_run(tmp_path, capsys):
    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    assert nevergrad_run(problem, 32, 5, problem.executor(WORKERS)) == nevergrad_run(problem, 32, 5, None)
    out = tmp_path / "figures.json"
    assert main(["executor", "--quick", "--rounds", "2", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["sections"]["executor"]
    assert figures["budget"] == 2 * WORKERS
    assert set(figures["seconds"]) == {"one at a time", "executor(batch=16)"}
    assert "times as fast" in capsys.readouterr().out
