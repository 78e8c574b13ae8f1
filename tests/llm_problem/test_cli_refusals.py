"""The command line's bad input: exit code 2, one line that says why, nothing written."""

import re

import pytest

from llm_problem.cli import main

ID = "tiny-gpt2-prose-lora-xs-d32-v1"


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    """Every command runs in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def run(out="out"):
    return main(["run", ID, "--optimizer", "random-search", "cma", "--budget", "12", "--out", str(out)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "tiny-gpt2-prose-loraxs-d32-v1"], f"did you mean {ID}"),
        (["run", "tiny-gpt2-prose-loraxs-d32-v1", "--optimizer", "cma", "--budget", "3"], f"did you mean {ID}"),
        (["run", "../../evil-d1-v1", "--optimizer", "cma", "--budget", "3"], "unknown problem '../../evil-d1-v1'"),
        (["run", f"{ID}@x", "--optimizer", "cma", "--budget", "3"], "one non-negative integer behind the @"),
        (["run", ID, "--optimizer", "cma", "--budget", "0"], "--budget must be at least 1, got 0"),
        (["run", ID, "--optimizer", "cma", "--budget", "-5"], "--budget must be at least 1, got -5"),
        (["run", ID, "--optimizer", "cma", "--budget", "3", "--seed", "-1"], "--seed must be .* got -1"),
        (["run", ID, "--optimizer", "cma", "cma", "--budget", "3"], "an optimizer is named twice: cma cma"),
        (
            ["run", ID, "--optimizer", "random-serch", "--budget", "3"],
            "'random-serch'; near names: random-search.*`llm-problem list --optimizers`",
        ),
        (["run", ID, "--optimizer", "nevergrad:NGOp", "--budget", "3"], "NGOpt.*list --opt"),
        (["run", ID, "--optimizer", "pymoo:Zork", "--budget", "3"], "Zork"),
        (["run", ID, "--optimizer", "../../evil", "--budget", "3"], "no optimizer '../../evil'"),
        (["run", ID, "--optimizer", "cma", "nevergrad:../../x", "--budget", "3"], "'?../../x'?"),
    ],
)
def test_bad_input_is_refused_before_anything_is_loaded_or_written(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("llm_problem.models.loading._load", lambda *args: pytest.fail("a model was loaded"))
    monkeypatch.setattr("llm_problem.problem.load_model", lambda *args, **options: pytest.fail("a model was loaded"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("llm-problem: ")
    assert "Traceback" not in printed.err
    assert re.search(message, printed.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["zork"],
        ["run", ID, "--budget", "3"],
        ["run", ID, "--optimizer", "cma"],
        ["run", ID, "--optimizer", "cma", "--budget", "many"],
        ["run", ID, "--optimizer", "cma", "--budget", "2.5"],
        ["run", ID, "--optimizer", "--budget", "3"],
        ["show"],
    ],
)
def test_a_command_that_cannot_be_parsed_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: llm-problem" in capsys.readouterr().err


def test_a_misspelt_problem_behind_the_optimizers_is_explained(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--optimizer", "cma", "tiny-gtp2", "--budget", "3"])
    assert "required: ID (the problem's id, before --optimizer," in capsys.readouterr().err


@pytest.mark.parametrize("what", ["empty", "full", "file"])
def test_an_existing_folder_is_never_overwritten(tmp_path, capsys, what):
    out = tmp_path / "out"
    if what == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if what == "full":
            (out / "history.csv").write_text("mine")
    assert run() == 2
    assert "exists already and is not overwritten: choose another --out" in capsys.readouterr().err
    if what == "empty":
        assert list(out.iterdir()) == []
    else:
        assert (out if what == "file" else out / "history.csv").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(out=tmp_path / "file" / "out") != 0
    printed = capsys.readouterr()
    assert printed.err.startswith("llm-problem: ")
    assert "Traceback" not in printed.err
