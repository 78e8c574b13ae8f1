"""A child process outlives what it is given to call."""

import os
import time

from llm_problem_adapters.experiments.in_child import Child


def ended(how, *arguments):
    """A call for a child process."""
    if how == "raises":
        raise ValueError(f"with {arguments}")
    if how == "hangs":
        time.sleep(60)
    if how == "computes":
        while True:
            pass
    if how == "dies":
        os._exit(7)
    return how


def test_a_child_outlives_what_it_is_given():
    child = Child(ended)
    try:
        assert child.call("works", limit=60) == "works"
        assert child.call("raises", 1, limit=60) == "ValueError: with (1,)"
        assert child.call("hangs", limit=0.05) == "TimeoutError: longer than 0.05 s"
        assert child.call("computes", limit=0.2) == "TimeoutError: longer than 0.2 s"
        assert child.call("dies", limit=60) == "ChildProcessError: it ended the process with code 7"
        assert child.call("works", limit=60) == "works"
    finally:
        child.close()
