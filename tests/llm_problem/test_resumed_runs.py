"""Killed and resumed by what Nevergrad and pymoo have for it: the trace of an uninterrupted run, and one log."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.llm_problem import resumed_runs as runs

SCRIPT = Path(__file__).with_name("resumed_runs.py")


def elsewhere(how, folder, deadly):
    command = [sys.executable, str(SCRIPT), how, str(folder), str(deadly)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(("how", "deadly"), [("nevergrad", 151), ("minimize", 87), ("pymoo", 11)])
def test_a_killed_run_goes_on_as_it_would_have(how, deadly, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    runs.RUNS[how](whole, 0)
    killed = elsewhere(how, cut, deadly)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = {path.name: path.read_text() for path in cut.glob("*.log")}
    files = [path for path in cut.iterdir() if path.suffix == ".pkl"]
    assert files and all(path.stat().st_size < 200_000 for path in files)  # descriptions, not models
    resumed = elsewhere(how, cut, 0)
    assert resumed.returncode == 0, resumed.stderr
    names = sorted(path.name for path in whole.glob("*.log"))
    assert len(names) == (3 if how == "pymoo" else 4)
    assert before and any(len(text) < (whole / name).stat().st_size for name, text in before.items())
    for name in names:
        expected, found = (whole / name).read_text().splitlines(), (cut / name).read_text().splitlines()
        assert (cut / name).read_text().startswith(before.get(name, ""))
        if how == "minimize":  # what was being told when it was dumped is told again
            assert len(found) <= len(expected) + 1
            found = list(dict.fromkeys(found))
        assert found == expected
