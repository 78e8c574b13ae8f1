"""Who takes part: the document's loop, the expert's, and ours, one at a time and in populations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_problem.benchmarks.document_loop import DocumentLoop
from llm_problem.benchmarks.expert_loop import BATCH_SIZES, ExpertLoop, NotForExpertsError, tuned_batch_size
from llm_problem.benchmarks.timing import Contestant
from llm_problem.problem import Problem

DOCUMENT, EXPERT, OURS, POPULATION = "document", "expert", "ours", "population"


@dataclass
class Field:
    """The contestants on one problem, and what is to be said of them."""

    problem: Problem
    contestants: list[Contestant]
    notes: list[str] = field(default_factory=list)
    expert_batch: int | None = None


def field_of(problem: Problem, population: int, expert_batch: int | None = None) -> Field:
    """All four on one problem; the expert's loop is left out, with a note, where it cannot be run.

    Args:
        problem: the problem.
        population: candidates at once, where a population is evaluated.
        expert_batch: sequences in a batch of the expert's; None to find the fastest by measuring.
    """
    found = Field(problem, [Contestant(DOCUMENT, one_by_one(DocumentLoop(problem)))])
    try:
        loop = ExpertLoop(problem, expert_batch or BATCH_SIZES[0])
        if expert_batch is None:
            loop.set_batch_size(expert_batch := tuned_batch_size(loop))
        found.expert_batch = expert_batch
        found.contestants.append(Contestant(EXPERT, one_by_one(loop)))
        rows = "the label words' rows of the head" if loop.words_only else "the whole head at the scored positions"
        found.notes.append(f"expert's loop: batches of {expert_batch} sequences (the fastest tried), {rows}")
    except NotForExpertsError as error:
        found.notes.append(f"expert's loop left out: {error}")
    found.contestants += [ours(problem), ours(problem, population)]
    found.notes.append(f"ours: {problem.card()['evaluator']}")
    return found


def ours(problem: Problem, population: int | None = None) -> Contestant:
    """`problem.evaluate`, one candidate a call or a population."""
    if population is None:
        return Contestant(OURS, problem.evaluate)
    return Contestant(POPULATION, problem.evaluate, population)


def one_by_one(evaluate: Callable[[np.ndarray], float]) -> Callable[[np.ndarray], np.ndarray]:
    """f(x) as a function of X (n, d)."""
    return lambda X: np.array([evaluate(x) for x in X])


def gemms(problem: Problem) -> list[tuple[int, int, int, int]] | None:
    """(count, M, K, N) of the matrix products (M, K)·(K, N) of one evaluation; None where the evaluator has no list."""
    evaluator: Any = getattr(problem, "evaluator", None)
    listed = getattr(evaluator, "gemms", None)
    if listed is None:
        return None
    return [(int(count), int(m), int(k), int(n)) for count, m, k, n in listed(problem.batch("search"))]
