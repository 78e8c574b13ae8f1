"""The benchmark runs, and its contestants compute the same losses."""

import json

import pytest

from llm_problem.benchmarks.__main__ import main


def test_contestants_agree_and_figures_are_written(tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert (
        main(["--model", "tiny-gpt2", "--layers", "1", "2", "--sentences", "6", "--rounds", "2", "--json", str(out)])
        == 0
    )
    rows = json.loads(out.read_text())["rows"]
    assert [row["layers"] for row in rows] == [1, 2]
    assert all(row["losses_apart"] < 1e-5 for row in rows)
    assert all(len(seconds) == 2 for row in rows for seconds in row["seconds"].values())
    assert "document/replay" in capsys.readouterr().out


def test_figures_are_not_overwritten(tmp_path):
    out = tmp_path / "figures.json"
    out.write_text("kept")
    with pytest.raises(SystemExit):
        main(["--model", "tiny-gpt2", "--rounds", "1", "--json", str(out)])
    assert out.read_text() == "kept"
