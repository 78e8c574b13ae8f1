"""Signals: a run ends within seconds, with its exit code, and says how to go on."""

import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from llm_problem.cli import main
from llm_problem.records import RunRecord

ID = "tiny-gpt2-prose-lora-xs-d32-v1"
# An evaluation that Python cannot break off: C code that runs for minutes and lets other threads run.
SCRIPT = """
import sys, time, hashlib
import torch
torch.set_num_threads(1)
import llm_problem as lp
from llm_problem.cli import entry
evaluate, calls = lp.Problem.evaluate, []
def slow(problem, X, **more):
    calls.append(len(X))
    if len(calls) == 5:
        print("in the evaluation", file=sys.stderr, flush=True)
        {deed}
    return evaluate(problem, X, **more)
lp.Problem.evaluate = slow
entry()
"""
SWALLOWED = """
        while True:
            try:
                time.sleep(300)
            except BaseException:
                pass
"""
DEEDS = {
    "python": "time.sleep(300)",
    "c": "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)",
    "swallowed": SWALLOWED.strip(),
}
ARGUMENTS = ["run", ID, "--optimizer", "simulated-annealing", "--budget", "12", "--out", "out folder"]


@pytest.mark.parametrize(
    ("deed", "number", "code"),
    [("python", signal.SIGINT, 130), ("c", signal.SIGTERM, 143), ("swallowed", signal.SIGTERM, 143)],
)
def test_a_signal_ends_a_run_within_five_seconds_and_it_goes_on(tmp_path, monkeypatch, capsys, deed, number, code):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", SCRIPT.format(deed=DEEDS[deed]), *ARGUMENTS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while "in the evaluation" not in (line := process.stderr.readline()):
            assert line or process.poll() is None
        started = time.monotonic()
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(60) == code, said
        assert time.monotonic() - started < 6  # 5 seconds, and a loaded machine's for the process to be gone
    with RunRecord.read(tmp_path / "out folder" / "records" / "simulated-annealing.sqlite") as record:
        kept = record.tail.evaluations
    assert kept > 2
    (go_on,) = re.findall(r"^to go on: llm-problem (.+)$", said, re.MULTILINE)
    assert main(shlex.split(go_on)) == 0
    with RunRecord.read(tmp_path / "out folder" / "records" / "simulated-annealing.sqlite") as record:
        assert record.tail.evaluations == 12
    assert main(shlex.split(go_on)) == 0
    assert "this run is finished" in capsys.readouterr().err
