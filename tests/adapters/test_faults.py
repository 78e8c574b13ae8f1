"""The short forms of `make faults`: each fault is tried for real, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

from llm_problem_adapters.faults.__main__ import PARTS


def test_faults_cost_no_more_than_is_promised(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "llm_problem_adapters.faults", "--quick", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())
    assert list(found) == list(PARTS)
    assert "BROKEN" not in done.stdout
    _, _, *rows = done.stdout.splitlines()
    assert len(rows) == sum(len(part) for part in found.values()) > 2 * len(PARTS)
    # The page has the table of the whole: every fault is in it.
    page = (Path(__file__).parents[2] / "docs" / "faults.md").read_text(encoding="utf-8")
    assert [row for row in rows if f"\n{row.split(' | ')[0]} | " not in page] == []


def test_an_unknown_part_is_refused(capsys):
    command = [sys.executable, "-m", "llm_problem_adapters.faults", "zork"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "no such part: zork; there are kills" in done.stderr
