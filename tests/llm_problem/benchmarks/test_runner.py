"""The command runs every section, prints what it found, writes the figures, and refuses what does not fit."""

import json

import pytest
from rich.console import Console

from llm_problem.benchmarks import tiny
from llm_problem.benchmarks.runner import SECTIONS, main

FAST = ["--model", "tiny-gpt2", "--quick", "--rounds", "2", "--sentences", "4", "--windows", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(printed text, progress lines, figures) of one quick run of all sections but the slow one."""
    out = tmp_path_factory.mktemp("benchmarks") / "figures.json"
    sections = [name for name in SECTIONS if name != "memory"]  # processes of its own: see test_memory
    progress = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiny, "POPULATION_OF_TINY", 4)
        patched.setattr("llm_problem.list_problems", lambda pattern: ["tiny-gpt2-prose-lora-xs-d32-v1"])
        patched.setattr("llm_problem.benchmarks.runner.say", progress.append)
        console = Console(record=True, width=140)
        patched.setattr("llm_problem.benchmarks.runner.table_console", lambda: console)
        assert main([*sections, *FAST, "--json", str(out)]) == 0
        text = console.export_text()
    return text, progress, json.loads(out.read_text())


def test_every_section_is_printed_and_written(run):
    text, progress, figures = run
    assert set(figures["sections"]) == set(SECTIONS) - {"memory"}
    assert progress == [f"section {name}" for name in SECTIONS if name != "memory"]
    for title in (
        "Sentences and label words",
        "libraries' peaks",
        "Windows of 64",
        "Bundled models",
        "Precision",
        "Generation",
    ):
        assert title in text
    assert "embedded sentiment" in text and "embedded prose" in text


def test_the_heading_says_what_machine_it_was(run):
    text, _, figures = run
    assert figures["machine"]["torch"] in text and figures["machine"]["processor"] in text
    assert figures["machine"]["threads"] >= 1
    assert figures["settings"]["model"] == "tiny-gpt2"


@pytest.mark.parametrize("section", ["layers", "lm"])
def test_contestants_agree_and_their_raw_times_are_there(run, section):
    rows = run[2]["sections"][section]["rows"]
    assert [row["layers"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["losses_apart"] < 1e-5  # four ways of computing: they differ, but hardly
        assert {"document", "ours", "population"} <= set(row["seconds"])
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values())


def test_a_population_of_a_tiny_problem_has_the_losses_of_its_members(run):
    (row,) = run[2]["sections"]["tiny"]["rows"]
    assert row["losses_apart"] < 1e-6
    assert set(row["seconds"]) == {"ours", "population"}


def test_the_profile_accounts_for_the_time(run):
    profile = run[2]["sections"]["profile"]
    inside = sum(seconds for seconds, _ in profile["operators"].values())
    assert 0 < inside <= 1.05 * profile["watched_seconds"]
    assert any("mm" in name or "linear" in name for name in profile["operators"])


def test_texts_are_those_of_stock_generate(run):
    rows = run[2]["sections"]["generation"]["rows"]
    assert [row["layers"] for row in rows] == [1, 2]
    for row in rows:
        assert set(row["differ"].values()) == {0}
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in row["seconds"].values())


def test_bfloat16_is_near_float32_but_not_it(run):
    precision = run[2]["sections"]["precision"]
    assert precision["losses_apart"]["float32"] == 0
    assert 0 < precision["losses_apart"]["bfloat16"] < 0.5
    assert len(precision["losses"]["bfloat16"]) == 8


def test_data_and_text_of_ones_own(tmp_path, capsys):
    for name in ("train", "dev", "test"):
        rows = [f"a {word} film {name},{label}" for word, label in (("dull", "negative"), ("fine", "positive"))]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    text = tmp_path / "text.txt"
    text.write_text("Something to read, and then some more of it. " * 80)
    options = ["--data", str(tmp_path), "--text", str(text), "--layers", "1", "--rounds", "1"]
    assert main(["lm", "layers", *FAST, *options, "--sentences", "2"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path}: 2 examples" in printed and f"{text}: 2 examples" in printed


def test_figures_are_not_overwritten(tmp_path, capsys):
    out = tmp_path / "figures.json"
    out.write_text("kept")
    with pytest.raises(SystemExit) as refused:
        main(["profile", *FAST, "--json", str(out)])
    assert refused.value.code == 2 and "not overwritten" in capsys.readouterr().err
    assert out.read_text() == "kept"


def test_a_run_cut_short_leaves_what_it_found(tmp_path):
    out = tmp_path / "figures.json"

    def breaks(settings):
        raise RuntimeError("cut short")

    with pytest.raises(RuntimeError, match="cut short"):
        main([*FAST, "--json", str(out)], sections={"profile": SECTIONS["profile"], "breaks": breaks})
    assert set(json.loads(out.read_text())["sections"]) == {"profile"}
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["speed"], "there are layers, gemm"),
        (["--rounds", "0"], "rounds must be at least 1"),
        (["--sentences", "1"], "sentences must be at least 2"),
        (["--windows", "0"], "windows must be at least 1"),
        (["--layers", "0"], "layers must be at least 1"),
        (["--layers", "3"], "tiny-gpt2 has 2"),
        (["--model", "tiny-gpt3"], "tiny-gpt3"),
        (["--data", "nowhere"], "has no train.csv"),
        (["--text", "nowhere.txt"], "there is no file"),
        (["--json", "nowhere/figures.json"], "cannot write"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(arguments, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def measured(settings):
        raise AssertionError("measured all the same")

    base = ["--model", "tiny-gpt2"] if "--model" not in arguments else []
    with pytest.raises(SystemExit) as refused:
        main([*arguments, *base], sections=dict.fromkeys(SECTIONS, measured))
    assert refused.value.code == 2
    assert reason in " ".join(capsys.readouterr().err.split())
