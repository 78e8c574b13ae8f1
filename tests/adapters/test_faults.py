"""The short forms of `make faults`: each fault is tried for real, in a process of its own."""

import json
import subprocess
import sys

from llm_problem_adapters.faults.__main__ import PARTS


def test_faults_cost_no_more_than_is_promised(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "llm_problem_adapters.faults", "--quick", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads(figures.read_text())) > 2 * len(PARTS)
    assert "BROKEN" not in done.stdout and done.stdout.count("kept ") == len(json.loads(figures.read_text()))


def test_an_unknown_part_is_refused(capsys):
    command = [sys.executable, "-m", "llm_problem_adapters.faults", "zork"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "no such part: zork; there are kills" in done.stderr
