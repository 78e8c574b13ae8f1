"""What docs/security.md promises of names, records and model repositories; pickles are in models/test_loading.py."""

import csv
import json
import os
import sqlite3

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_problem as lp
from llm_problem.cli import main
from llm_problem.harmless import plain_cell, printable, safe_name
from llm_problem.models.loading import load_model
from llm_problem.records import RecordError, Row, RunRecord
from llm_problem.records.export import write_csv
from llm_problem.records.rows import digest
from llm_problem.study.folder import RunFolder

ID = "tiny-gpt2-prose-lora-xs-d32-v1"
HOSTILE = (
    *("../../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "con\0nul", "-rf", "x" * 5000, "naïve Σ"),
    *("<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "`rm -rf ~`", "$(touch x)"),
    *('=HYPERLINK("http://x")', "+1+1", "@SUM(A1)", "-2+3", "\t=1", "\r=1"),
    *("\x1b]0;title\x07", "\x1b[2J", "\u202egnp.exe", "[bold]red[/bold]", "[link=file:///]x[/link]"),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_stays_in_its_folder_and_is_a_plain_file_name(tmp_path, name):
    with RunFolder(tmp_path / "run") as folder:
        path = folder.record(name)
    assert path.parent == tmp_path / "run" / "records"
    assert path.name.isascii() and path.name.replace(".", "").replace("-", "").replace("_", "").isalnum()
    assert len(path.name) < 200 and not path.name.startswith((".", "-"))


@given(st.lists(st.text(max_size=8) | st.sampled_from(["pymoo:DE", "pymoo.DE", "pymoo-DE", "pymoo_DE"]), min_size=2))
def test_two_names_never_share_a_file(names):
    assert len({safe_name(name) for name in names}) == len(set(names))


@given(st.text())
def test_text_for_a_terminal_moves_nothing(text):
    assert all(c.isprintable() or c == "\n" for c in printable(text))
    assert printable("Σ plain\nlines") == "Σ plain\nlines"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_cell_of_a_table_is_a_formula(tmp_path, name):
    assert plain_cell("cma") == "cma"
    with RunFolder(tmp_path / "run") as folder:
        folder.add_evaluations(name, 1, np.array([-1.5]), np.array(["ok"]), np.inf, 0.0)
    path = tmp_path / "run.sqlite"
    x = np.zeros(2)
    with RunRecord.create(path, {"dimension": 2, "constraints": 0}) as record:
        record.append([Row(0, 0, "search", "failed", np.nan, 0.0, x, digest(x), note=name)])
    write_csv(path, tmp_path / "run.csv")
    for file in (tmp_path / "run" / "history.csv", tmp_path / "run.csv"):
        with open(file, newline="", encoding="utf-8") as opened:
            (row,) = csv.DictReader(opened)
        for key, cell in row.items():  # numbers may be negative
            assert key in ("loss", "best_loss") or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))


def test_numbers_of_an_exported_record_come_back_to_the_bit(tmp_path):
    path, x = tmp_path / "run.sqlite", np.array([0.1 + 0.2, -1e-300])
    with RunRecord.create(path, {"dimension": 2, "constraints": 0}) as record:
        record.append([Row(0, 0, "search", "ok", 1 / 3, 0.5, x, digest(x))])
    write_csv(path, tmp_path / "run.csv", points=True)
    with open(tmp_path / "run.csv", newline="", encoding="utf-8") as opened:
        (row,) = csv.DictReader(opened)
    assert [float(row[name]) for name in ("loss", "x1", "x2")] == [1 / 3, *x.tolist()]
    with pytest.raises(FileExistsError):
        write_csv(path, tmp_path / "run.csv")


def test_what_an_optimizer_says_of_its_failure_reaches_the_terminal_as_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fail(problem, X, sample=None):
        raise RuntimeError("\x1b[2J[bold]<img src=x>[/bold]")

    monkeypatch.setattr(lp.Problem, "evaluate", fail)
    monkeypatch.setattr(lp.Problem, "__call__", lambda problem, x: 1.0)
    assert main(["run", ID, "--optimizer", "cma", "--budget", "4", "--out", "out"]) == 1
    printed = capsys.readouterr().out
    assert "\\x1b[2J[bold]<img src=x>[/bold]" in printed and "\x1b" not in printed


def test_code_in_a_models_repository_is_not_run(tmp_path):
    witness = tmp_path / "executed"
    folder = tmp_path / "model"
    model = load_model("tiny-gpt2")
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(witness)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": classes}))
    with pytest.raises(ValueError, match="brings code of its own, which is not run"):
        load_model(folder)
    # Of a type that transformers knows, its own class is used.
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": classes}))
    assert type(load_model(folder).model) is type(model.model)
    assert not witness.exists()


def test_a_record_from_elsewhere_cannot_bring_code_or_fill_the_memory(tmp_path):
    path, x = tmp_path / "run.sqlite", np.zeros(3)
    with RunRecord.create(path, {"dimension": 3, "constraints": 0}) as record:
        record.append([Row(0, 0, "search", "ok", 1.0, 0.0, x, digest(x))])
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER t AFTER INSERT ON event BEGIN SELECT load_extension('x'); END")
    connection.close()
    with pytest.raises(RecordError, match="its tables are not those of a record"):
        RunRecord.open(path)


def test_configuration_is_data(tmp_path):
    spec = lp.get_spec(ID).to_dict()
    for change in (
        {"task": {"kind": "os.system"}},
        {"__class__": "x"},
        {"subspace": "!!python/x"},
    ):
        with pytest.raises(ValueError):
            lp.ProblemSpec.from_dict({**spec, **change})
    assert os.listdir(tmp_path) == []
