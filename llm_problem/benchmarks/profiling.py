"""The section `profile`: where one of our evaluations spends its time, by operator.

Operators are grouped by their names, and count for themselves, without the operators that they call. What no operator
accounts for is Python's: the model's own code, hooks, and the task's loss.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import Settings, describe
from llm_problem.benchmarks.timing import figure
from llm_problem.models.cache import say

TOP = 15
# The first group with a part of the operator's name takes it.
GROUPS = {
    "attention": ("scaled_dot_product", "flash_attention", "aten::softmax", "aten::_softmax"),
    "matrix products": ("mm", "linear", "matmul", "einsum", "aten::mv", "aten::dot"),
    "norms": ("norm", "aten::pow", "aten::mean", "rsqrt", "aten::var"),
    "activations": ("silu", "gelu", "relu", "tanh", "sigmoid"),
}
REST, PYTHON = "the rest", "outside operators"


def profile_section(settings: Settings) -> Report:
    """Ours, one candidate at a time."""
    problem = settings.problem(settings.label_task(), settings.focus())
    X = np.random.default_rng(0).standard_normal((settings.rounds + 2, 1, problem.dimension))
    for x in X[:2]:
        problem.evaluate(x)  # the first fills caches, the second finds what is left to be found
    started = time.perf_counter()
    for x in X[2:]:
        problem.evaluate(x)
    plain = (time.perf_counter() - started) / settings.rounds
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        for x in X[2:]:
            problem.evaluate(x)
        watched = (time.perf_counter() - started) / settings.rounds
    operators = {
        event.key: (event.self_cpu_time_total / 1e6 / settings.rounds, event.count / settings.rounds)
        for event in profiler.key_averages()
    }
    say("profile taken")
    sheets = [_groups(operators, watched), _top(operators, watched)]
    sheets[0].title = f"Where the time goes, last {settings.focus()} layers: ms an evaluation"
    sheets[0].notes += [
        f"{figure(1e3 * watched)} ms an evaluation while watched, {figure(1e3 * plain)} ms otherwise",
        describe(problem, settings.data, "sentiment"),
    ]
    figures = {"layers": settings.focus(), "seconds": plain, "watched_seconds": watched, "operators": operators}
    return Report(sheets, figures)


def group_of(operator: str) -> str:
    """The group that an operator counts for."""
    name = operator.lower()
    return next((group for group, parts in GROUPS.items() if any(part in name for part in parts)), REST)


def _groups(operators: dict[str, Any], watched: float) -> Sheet:
    total = dict.fromkeys([*GROUPS, REST], 0.0)
    for name, (seconds, _) in operators.items():
        total[group_of(name)] += seconds
    total[PYTHON] = max(0.0, watched - sum(total.values()))
    rows = [(group, figure(1e3 * seconds), f"{seconds / watched:.1%}") for group, seconds in total.items()]
    return Sheet("", ("group", "ms", "share"), list(rows))


def _top(operators: dict[str, Any], watched: float) -> Sheet:
    sheet = Sheet(f"The {TOP} longest operators", ("operator", "group", "calls", "ms", "share"))
    for name, (seconds, calls) in sorted(operators.items(), key=lambda item: -item[1][0])[:TOP]:
        sheet.rows.append((name, group_of(name), f"{calls:.0f}", figure(1e3 * seconds), f"{seconds / watched:.1%}"))
    return sheet
