"""What came of a study: best losses after any number of evaluations, runtimes to targets, what is missing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from llm_problem.study.config import Study
from llm_problem.study.runs import Ended, StudyFolder, runs_of

POINTS = 160  # of a curve, about evenly spaced on a logarithmic axis


@dataclass
class Results:
    """The runs of a study that have ended.

    Attributes:
        study: what was asked for.
        folder: where.
        facts: problem → what is known of it (`StudyFolder.problem`); those of which nothing was run are not in it.
        finished: (problem, optimizer) → its finished runs, by seed.
        failed: runs that failed.
        missing: runs that have not ended, in words.
    """

    study: Study
    folder: StudyFolder
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    finished: dict[tuple[str, str], list[Ended]] = field(default_factory=dict)
    failed: list[Ended] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def budget(self) -> int:
        return self.study.budget

    @property
    def runs(self) -> int:
        """How many have finished."""
        return sum(len(runs) for runs in self.finished.values())

    @cached_property
    def problems(self) -> list[str]:
        """Those with a finished run, in the study's order."""
        found = {problem for problem, _ in self.finished}
        return [entry.name for entry in self.study.problems if entry.name in found and entry.name in self.facts]

    @cached_property
    def optimizers(self) -> list[str]:
        """Labels of those with a finished run, in the study's order."""
        found = {optimizer for _, optimizer in self.finished}
        return [each.label for each in self.study.optimizers if each.label in found]

    @cached_property
    def given_gradients(self) -> set[str]:
        """Optimizers that were given gradients: references, which no rank or test counts."""
        return {label for (_, label), runs in self.finished.items() if any(run.gradients for run in runs)}

    @cached_property
    def competitors(self) -> list[str]:
        """The optimizers that were not given gradients."""
        return [label for label in self.optimizers if label not in self.given_gradients]

    @cached_property
    def grid(self) -> np.ndarray:
        """Numbers of evaluations at which curves are drawn, from 1 to the budget."""
        return np.unique(np.round(np.geomspace(1, self.budget, POINTS)).astype(int))

    def f0(self, problem: str) -> float:
        """The loss of the pretrained model."""
        return float(self.facts[problem]["f0"])

    def of(self, problem: str, optimizer: str) -> list[Ended]:
        """The finished runs, by seed."""
        return self.finished.get((problem, optimizer), [])

    def draws_nothing(self, problem: str, optimizer: str) -> bool:
        """Whether several runs are all the same, whatever their seed: one run, as far as tests are concerned."""
        found = self.of(problem, optimizer)
        return len(found) > 1 and all(run.improvements == found[0].improvements for run in found[1:])

    def best_at(self, problem: str, optimizer: str, evaluations: int | np.ndarray) -> np.ndarray:
        """Best losses so far (runs, k) after each of k numbers of evaluations; inf before the first.

        A run that ended before its budget keeps its best.
        """
        wanted = np.atleast_1d(evaluations)
        table = np.full((len(self.of(problem, optimizer)), len(wanted)), np.inf)
        for row, run in zip(table, self.of(problem, optimizer), strict=True):
            if run.improvements:
                numbers, losses = (np.array(column) for column in zip(*run.improvements, strict=True))
                place = np.searchsorted(numbers, wanted, side="right") - 1
                row[:] = np.where(place >= 0, losses[np.maximum(place, 0)], np.inf)
        return table

    def final(self, problem: str, optimizer: str) -> np.ndarray:
        """Best losses (runs,) at the budget."""
        return self.best_at(problem, optimizer, self.budget)[:, 0]

    def runtimes(self, problem: str, optimizer: str, target: float) -> np.ndarray:
        """Evaluations (runs,) until a loss of at most `target` was found; inf where none was."""
        found = np.full(len(self.of(problem, optimizer)), np.inf)
        for i, run in enumerate(self.of(problem, optimizer)):
            found[i] = next((number for number, loss in run.improvements if loss <= target), np.inf)
        return found

    def spent(self, problem: str, optimizer: str) -> np.ndarray:
        """Evaluations (runs,) that each run made."""
        return np.array([run.evaluations for run in self.of(problem, optimizer)])

    def complete(self, optimizers: Sequence[str] | None = None) -> list[str]:
        """The problems on which each of the optimizers (all competitors, by default) has a finished run."""
        wanted = self.competitors if optimizers is None else optimizers
        return [problem for problem in self.problems if all(self.of(problem, label) for label in wanted)]

    def medians(self, problems: Sequence[str], optimizers: Sequence[str], evaluations: int | None = None) -> np.ndarray:
        """Median best losses (problems, optimizers) after so many evaluations (the budget, by default)."""
        number = self.budget if evaluations is None else evaluations
        return np.array([[np.median(self.best_at(p, o, number)[:, 0]) for o in optimizers] for p in problems])


def read(folder: str | os.PathLike[str]) -> Results:
    """The results in a study's folder, however much of it has been run.

    Raises:
        ValueError: it is no folder of a study, or a file in it cannot be read.
    """
    place = StudyFolder(folder)
    results = Results(place.study(), place)
    for entry in results.study.problems:
        facts = place.problem(entry)
        if facts is not None:
            results.facts[entry.name] = facts
    for run in runs_of(results.study):
        ended = place.ended(run)
        if ended is None:
            results.missing.append(str(run))
        elif not ended.finished:
            results.failed.append(ended)
        else:
            results.finished.setdefault((run.problem.name, run.optimizer.label), []).append(ended)
    return results
