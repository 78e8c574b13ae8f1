"""The table of round trips: every registered kind has a row, and what does not come home is said."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from llm_problem.subspaces import SUBSPACES
from llm_problem_adapters.experiments import round_trips
from llm_problem_adapters.experiments.round_trips import (
    COLUMNS,
    EXAMPLES,
    LIMIT,
    MODELS,
    RoundTrip,
    main,
    markdown_of,
    table_of,
)

pytest.importorskip("peft")


def test_every_registered_kind_has_an_example_of_its_kind():
    assert set(EXAMPLES) == set(SUBSPACES)
    assert all(callable(made) or made.kind == kind for kind, made in EXAMPLES.items())


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-bert"])
def test_every_kind_comes_home(model):
    rows = {row.kind: row for row in round_trips.round_trips([model])}
    assert set(rows) == set(SUBSPACES)
    for row in rows.values():
        if row.dimension is None:
            assert (model, row.kind) == ("tiny-bert", "prefix") and "causal model's cache" in row.adapter
            continue
        assert row.kept, row
        assert abs(row.moved) > 100 * LIMIT, row  # else there would be nothing to lose on the way
        assert row.adapter_difference is not None or row.merged_difference is not None, row
    assert {row.adapter for row in rows.values()} >= {"LORA", "IA3", "PROMPT_TUNING"}


def test_the_documented_table_is_of_every_model_and_kind():
    text = (Path(__file__).parents[2] / "docs" / "round-trips.md").read_text(encoding="utf-8")
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == [name.replace("|", r"\|") for name in COLUMNS]
    assert [tuple(line[:2]) for line in lines[2:]] == [(model, kind) for model in MODELS for kind in sorted(SUBSPACES)]


def test_a_kind_without_an_example_is_named(monkeypatch):
    monkeypatch.setitem(SUBSPACES, "new-kind", SUBSPACES["lora"])
    with pytest.raises(ValueError, match=r"no example of new-kind in EXAMPLES of round_trips\.py: add one"):
        list(round_trips.round_trips(["tiny-gpt2"]))


def test_a_loss_that_changed_on_the_way_is_an_error(capsys, monkeypatch):
    difference = round_trips._difference
    monkeypatch.setattr(round_trips, "_difference", lambda *arguments: difference(*arguments) + 2 * LIMIT)
    assert main(["--models", "tiny-gpt2", "--kinds", "lora", "random", "--markdown"]) == 1
    out, error = capsys.readouterr()
    assert [line.split(" | ")[1] for line in out.splitlines()[2:]] == ["lora", "random"]
    assert error.splitlines() == [
        "lora on tiny-gpt2 does not come home with its loss",
        "random on tiny-gpt2 does not come home with its loss",
    ]


def test_reasons_are_shown_as_they_are():
    row = RoundTrip("m", "k", 3, -0.25, "no adapter for [bold]x[/bold]", None, "", 2e-7)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table_of([row, dataclasses.replace(row, dimension=None, merged_difference=np.inf)]))
    text = console.export_text()
    assert "no adapter for [bold]x[/bold]" in text and "2.0e-07" in text and "inf" in text
    assert markdown_of([dataclasses.replace(row, adapter="a | b")]).splitlines() == [
        r"| model | subspace | d | f(x) − f(0) | PEFT adapter | \|Δ\| | whole model, \|Δ\| |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
        r"| m | k | 3 | -2.5e-01 | a \| b |  | 2.0e-07 |",
    ]
    assert row.kept and not dataclasses.replace(row, adapter_difference=float("nan")).kept
