"""Limits of a run and of one evaluation, and objectives that return what is no loss."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llm_problem.records import RunRecord
from llm_problem_adapters import Limits, minimize
from llm_problem_adapters.evaluating import Killed
from llm_problem_adapters.faults.objectives import VALUES, Free, Misbehaving


class Deadly(Free):
    def evaluate(self, X):
        if self.evaluations == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(X)


def test_a_run_ends_when_its_time_is_over_and_goes_on_later(tmp_path):
    path, options = tmp_path / "run.sqlite", {"seed": 1, "record": tmp_path / "run.sqlite"}
    started = time.monotonic()
    result = minimize(Free(seconds=0.05), "random-search", 1000, limits={"seconds": 0.5}, **options)
    assert time.monotonic() - started < 5
    assert result.stop_reason == "time limit" and 1 < result.evaluations < 20
    assert result.loss == result.best_loss
    with RunRecord.read(path) as record:
        assert record.tail.evaluations == result.evaluations and record.finished is None
    later = minimize(Free(), "random-search", 1000, resume=True, **options)
    assert later.losses.tolist() == minimize(Free(), "random-search", 1000, seed=1).losses.tolist()


def test_an_evaluation_in_a_process_of_its_own_is_the_same_and_what_dies_there_dies_alone():
    with pytest.raises(Killed, match="killed by SIGKILL, which the system sends where memory runs out") as caught:
        minimize(Deadly(), "random-search", 30, limits=Limits(apart=True))
    result = caught.value.partial_result
    assert result.losses.tolist() == minimize(Free(), "random-search", 30).losses[:3].tolist()


def test_a_limit_that_the_problem_itself_passes_is_refused():
    with pytest.raises(ValueError, match="memory limit is too small for the problem itself: its process took"):
        minimize(Free(), "cma", 30, limits={"memory": 1_000_000})


def test_a_problem_that_cannot_be_built_apart_is_no_failed_evaluation(tmp_path):
    """A script without the guard is run again in the other process, which ends."""
    with pytest.raises(ValueError, match="too small for the problem itself"):
        minimize(Free(), "cma", 30, limits={"memory": 1_000_000}, errors="record")
    script = tmp_path / "script.py"
    script.write_text(
        "from llm_problem_adapters import minimize\n"
        "from llm_problem_adapters.faults.objectives import Free\n"
        "minimize(Free(), 'cma', 3, limits={'evaluation_seconds': 60})\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "done" not in done.stdout
    assert 'call minimize under if __name__ == "__main__"' in done.stderr.splitlines()[-1]


def test_what_cannot_be_sent_to_another_process_is_said():
    problem = Free()
    problem.hook = lambda: None
    with pytest.raises(ValueError, match="cannot be pickled"):
        minimize(problem, "cma", 30, limits={"evaluation_seconds": 5})


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"evaluation_seconds": -1}, {"memory": 1.5}, {"seconds": "1"}])
def test_a_limit_is_a_positive_number(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        minimize(Free(), "cma", 30, limits=limits)


@pytest.mark.parametrize(
    "how", [how for how in VALUES if VALUES[how] is None or isinstance(VALUES[how], (str, complex))]
)
def test_what_is_no_loss_is_an_error_that_names_it(how):
    problem = Misbehaving(how)
    with pytest.raises(ValueError, match=r"the losses of evaluate must hold numbers, got (None|'low'|\(?-)"):
        minimize(problem, "random-search", 40)


def test_one_of_a_batch_that_raises_is_no_affair_of_the_others():
    problem = Misbehaving("raises")
    result = minimize(problem, "random-search", 60, batch_size=20, errors="record", keep_x=True)
    spoilt = np.array([problem.spoilt(x) for x in result.X])
    assert 5 < spoilt.sum() < 40
    assert (result.status == np.where(spoilt, "failed", "ok")).all()
    assert (np.isnan(result.losses) == spoilt).all()
    with pytest.raises(ValueError, match="errors must be one of raise, record"):
        minimize(problem, "random-search", 60, errors="ignore")
