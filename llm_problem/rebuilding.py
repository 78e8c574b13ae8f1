"""Problems rebuilt from their pickles, once in a process.

A pool of processes sends its function, and with it the problem, with every single point: a worker that built the
problem each time would spend its time on that.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm_problem.spec import ProblemSpec
from llm_problem.tasks.scorer import Function, Scorer

if TYPE_CHECKING:
    from llm_problem.problem import Problem

KEPT = 2  # problems, those asked for last
_kept: OrderedDict[tuple, Problem] = OrderedDict()
_lock = threading.Lock()


def rebuild(text: str, where: dict[str, Any], functions: Sequence[Function] = ()) -> Problem:
    """The problem of a description in JSON; unpickled again it is the same object, unless that was closed.

    Args:
        text: `ProblemSpec.to_json()`.
        where: device, memory_limit and basis of `Problem.from_spec`.
        functions: those of a user's that the task calls; a pickle is trusted to name them.
    """
    from llm_problem.problem import Problem

    for function in functions:
        Scorer.of(function)
    key = (text, *sorted(where.items()))
    with _lock:
        problem = _kept.pop(key, None)
        if problem is None or problem.closed:
            problem = Problem.from_spec(ProblemSpec.from_json(text), **where)
        _kept[key] = problem
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
        return problem
