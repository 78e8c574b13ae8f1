"""The table of a run: which point each number belongs to."""

import io
from pathlib import Path

from rich.console import Console

from llm_problem.study.report import print_outcome
from llm_problem.study.runner import Outcome


def row(name, best_loss, loss, accuracy):
    test = {"loss": 2 * loss, "accuracy": accuracy, "examples": 40.0}
    return {"optimizer": name, "best_loss": best_loss, "loss": loss, "test": test, "evaluations": 9, "seconds": 1.0}


def cells(line):
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


def test_the_best_point_and_the_recommended_one_have_columns_of_their_own():
    pretrained = {"search_loss": 0.9, "test": {"loss": 1.8, "accuracy": 0.5, "examples": 40.0}}
    rows = [row("cma", 0.3, 0.31, 0.75), row("sa", 0.2, 0.4, 0.7), {"optimizer": "ga", "error": "ValueError: no"}]
    outcome = Outcome("p", Path("out"), Path("out/c.png"), ("loss", "accuracy"), pretrained, rows)
    console = Console(width=140, record=True, file=io.StringIO())
    print_outcome(outcome, console)
    lines = console.export_text().splitlines()
    heads = [line for line in lines if line.startswith("┃")]
    headings = [" ".join(filter(None, parts)) for parts in zip(*map(cells, heads), strict=True)]
    assert headings == [
        "optimizer",
        "best seen: search loss",
        "recommended: search loss",
        "recommended: held-out loss",
        "recommended: held-out accuracy",
        "evaluations",
        "seconds",
    ]
    body = [cells(line) for line in lines if line.startswith("│")]
    assert body[0][:5] == ["pretrained", "0.9000", "0.9000", "1.8000", "0.5000"]
    assert body[1][:5] == ["sa", "0.2000", "0.4000", "0.8000", "0.7000"]
    assert body[2][:5] == ["cma", "0.3000", "0.3100", "0.6200", "0.7500"]
    assert body[3][:2] == ["ga", "failed"]
