"""Run folders: complete files, exact numbers, nothing overwritten."""

import csv
import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_problem.study.folder import HISTORY, RunFolder, finite_json

OK = np.array(["ok"])


def rows_of(folder):
    with open(folder / "history.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_history_has_a_row_for_each_evaluation_as_it_was_found(tmp_path):
    losses = np.array([0.1 + 0.2, np.nan, -np.inf, 1 / 3, np.inf])
    with RunFolder(tmp_path / "run") as folder:
        status = ["ok", "non-finite", "non-finite", "ok", "gradient"]
        folder.add_evaluations('a, "b"', 1, losses, np.array(status), math.inf, 0.5)
        folder.add_evaluations('a, "b"', 6, np.array([0.31, 0.2]), OK.repeat(2), 0.1 + 0.2, 1.25)
    rows = rows_of(tmp_path / "run")
    assert tuple(rows[0]) == HISTORY
    assert {row["optimizer"] for row in rows} == {'a, "b"'}
    assert [int(row["evaluation"]) for row in rows] == list(range(1, 8))
    np.testing.assert_array_equal([float(row["loss"]) for row in rows], [*losses, 0.31, 0.2])
    # What is not finite is never the best, minus infinity neither.
    assert [float(row["best_loss"]) for row in rows] == [0.1 + 0.2] * 6 + [0.2]
    assert [row["status"] for row in rows] == [*status, "ok", "ok"]
    assert [float(row["seconds"]) for row in rows] == [0.5] * 5 + [1.25] * 2


def test_before_the_first_finite_loss_there_is_no_best(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.add_evaluations("a", 1, np.array([np.nan, 2.0]), np.array(["non-finite", "ok"]), math.inf, 0.0)
    assert [float(row["best_loss"]) for row in rows_of(tmp_path / "run")] == [math.inf, 2.0]


def test_history_can_be_read_while_the_run_goes_on(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        assert rows_of(tmp_path / "run") == []
        folder.add_evaluations("a", 1, np.array([1.0]), OK, math.inf, 0.0)
        assert len(rows_of(tmp_path / "run")) == 1


def test_json_files_are_valid_and_readable_by_all(tmp_path):
    with RunFolder(tmp_path / "deep" / "run") as folder:
        folder.write_config({"name": "naïve Σ"})
        folder.write_result({"loss": math.nan, "rows": [{"best": math.inf, "n": 3, "metrics": (1.5, None, "x")}]})
    config, result = tmp_path / "deep" / "run" / "config.json", tmp_path / "deep" / "run" / "result.json"
    assert json.loads(config.read_text()) == {"name": "naïve Σ"}
    strict = json.loads(result.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"loss": None, "rows": [{"best": None, "n": 3, "metrics": [1.5, None, "x"]}]}
    assert {path.stat().st_mode & 0o777 for path in (config, result)} == {0o644}


def test_a_result_replaces_the_one_before_it(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_result({"rows": [1, 2, 3]})
        folder.write_result({"rows": []})
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == {"rows": []}


def test_a_failed_write_leaves_the_file_before_it_and_no_scraps(tmp_path, monkeypatch):
    with RunFolder(tmp_path / "run") as folder:
        folder.write_result({"good": 1})
        monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            folder.write_result({"bad": 2})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["history.csv", "result.json"]
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == {"good": 1}


def test_points_come_back_bit_for_bit(tmp_path):
    points = {"cma/x": np.array([0.1, -1e-300, np.pi]), "cma/best_x": np.arange(6.0)[::2]}
    with RunFolder(tmp_path / "run") as folder:
        folder.write_points({})
        folder.write_points(points)
    loaded = load_file(tmp_path / "run" / "points.safetensors")
    assert set(loaded) == set(points)
    for name, point in points.items():
        np.testing.assert_array_equal(loaded[name], point)


@pytest.mark.parametrize("what", ["folder", "full folder", "file"])
def test_what_exists_is_never_overwritten(tmp_path, what):
    path = tmp_path / "run"
    if what == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        if what == "full folder":
            (path / "history.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="run exists already and is not overwritten: choose another --out"):
        RunFolder(path)
    left = path if what == "file" else path / "history.csv"
    assert what == "folder" or left.read_text() == "mine"


def test_only_numbers_that_are_not_finite_become_null():
    value = {"a": [math.nan, -math.inf, 0.0, True, None, "NaN"], "b": {"c": np.float64("inf")}}
    assert finite_json(value) == {"a": [None, None, 0.0, True, None, "NaN"], "b": {"c": None}}
