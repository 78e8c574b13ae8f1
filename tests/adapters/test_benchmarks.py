"""The cost of the books is measured, on the budget that was asked for."""

import json

from llm_problem.benchmarks.bookkeeping import QUICK_BUDGET, FreeProblem
from llm_problem_adapters.benchmarks import ask_and_tell, main, with_books


def test_both_spend_the_whole_budget():
    for run in (with_books, ask_and_tell):
        problem = FreeProblem(dimension=4)
        run(problem, 120, 0)
        assert problem.evaluations == 120


def test_figures_are_printed_and_written(tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert main(["--quick", "--rounds", "3", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["sections"]["bookkeeping"]
    assert set(figures["evaluations"].values()) == {QUICK_BUDGET}
    whole, part = figures["seconds"].values()
    assert len(whole) == len(part) == 3 and 0 < min(whole) < 0.01
    assert "ms an evaluation" in capsys.readouterr().out
