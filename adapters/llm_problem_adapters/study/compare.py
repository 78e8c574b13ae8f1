"""`compare`: run what a study asks for, or what is left of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from llm_problem.study.config import Study
from llm_problem.study.progress import StudyProgress
from llm_problem.study.runs import Ended, Run, StudyFolder, runs_of
from llm_problem_adapters.identity import versions
from llm_problem_adapters.registry import configure
from llm_problem_adapters.study.workers import Workers


@dataclass
class Comparison:
    """What a call of `compare` did.

    Attributes:
        folder: of the study.
        runs: that the study asks for.
        found: those that had finished before, or in another process meanwhile.
        ended: those that ended in this call, failed ones too.
        busy: runs that another process was at, and has not finished.
        interrupted: whether Ctrl-C came.
    """

    folder: Path
    runs: int
    found: int
    ended: list[Ended] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[Ended]:
        return [each for each in self.ended if not each.finished]

    @property
    def missing(self) -> int:
        """Runs that have not finished."""
        return self.runs - self.found - sum(each.finished for each in self.ended)

    @property
    def exit_code(self) -> int:
        """0 where every run has finished, 130 after an interruption, else 1."""
        return 130 if self.interrupted else int(self.missing > 0)


def compare(
    study: Study | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int = 1,
    fail_fast: bool = False,
    progress: bool = True,
) -> Comparison:
    """Run a study, or go on with it: finished runs are left alone, others go on from their records.

    A run that fails is recorded and the rest goes on; calling again tries it again. The same study gives the same
    numbers, however many workers share it and wherever it was interrupted.

    Args:
        study: a `Study`, or the path of its file.
        out: the study's folder, new or one that holds a part of it; None is runs/<name of the study>.
        workers: processes on this machine, each with the policy's threads.
        fail_fast: whether the first run that fails ends it all.
        progress: whether standard error says how far it is.

    Raises:
        ValueError: a study file that is none, an optimizer that there is not or has no such option, a folder of another
            study.
        FileExistsError: the folder holds something else.
    """
    if not isinstance(study, Study):
        study = Study.from_toml(study)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers must be an integer of at least 1, got {workers!r}")
    for optimizer in study.optimizers:  # before anything is written
        configure(optimizer.name, **optimizer.options)
    folder = StudyFolder(Path("runs") / study.name if out is None else out)
    folder.begin(study, versions())
    left, found = [], 0
    for run in runs_of(study):
        before = folder.ended(run)
        if before is not None and before.finished:
            found += 1
        else:
            left.append(run)
    comparison = Comparison(folder.path, study.runs, found)
    elsewhere: dict[str, Run] = {}
    with (
        StudyProgress(study.runs, found, study.budget, workers, shown=progress) as line,
        Workers(study, folder, workers) as pool,
    ):
        try:
            for told in pool.perform(left):
                if told.busy is not None:
                    elsewhere[told.busy] = told.run
                elif told.ended is None:
                    line.update(told.worker, str(told.run), told.evaluations, told.best_loss)
                else:
                    comparison.ended.append(told.ended)
                    line.ended(told.worker, str(told.run), told.run.problem.name, told.ended.error)
                    if fail_fast and not told.ended.finished:
                        break
        except KeyboardInterrupt:
            comparison.interrupted = True
    for said, run in elsewhere.items():  # it may have ended meanwhile
        after = folder.ended(run)
        if after is not None and after.finished:
            comparison.found += 1
        else:
            comparison.busy.append(said)
    return comparison
