"""What one evaluation of a problem takes on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

if TYPE_CHECKING:
    from llm_problem.problem import Problem

REPEATS = 3
_seconds: WeakKeyDictionary[Problem, float] = WeakKeyDictionary()


def seconds_of_evaluation(problem: Problem) -> float:
    """Seconds of one point x ~ N(0, I) by itself: measured when first asked for, and the same ever after.

    The least of a few, after one that fills caches: what else runs on the machine makes an evaluation longer only.
    """
    if problem not in _seconds:
        X = np.random.default_rng(0).standard_normal((REPEATS + 1, problem.dimension))
        taken = []
        for x in X:
            started = time.perf_counter()
            problem.evaluate_all(x[None, :])
            taken.append(time.perf_counter() - started)
        _seconds[problem] = min(taken[1:])
    return _seconds[problem]
