"""Processes that share a study's runs on one machine.

Each worker builds a problem once and keeps it while there are runs of it; a run goes to one worker whole. A worker that
dies (for memory, say) costs the run in hand, which has failed, and is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from llm_problem.records import RecordInUse
from llm_problem.study.config import Study
from llm_problem.study.runs import Ended, Run, StudyFolder
from llm_problem.workers.serving import end_with_driver

SHOWN = 0.5  # seconds between two messages about one run


@dataclass(frozen=True)
class Told:
    """What a worker says: how far a run is, or what came of it (`ended`)."""

    worker: int
    run: Run
    evaluations: int
    best_loss: float | None
    ended: Ended | None = None
    busy: str | None = None  # another process works on that run


class Workers:
    """So many processes for a study's runs.

    Args:
        study: what is run.
        folder: where.
        count: of processes.
    """

    def __init__(self, study: Study, folder: StudyFolder, count: int) -> None:
        self._study, self._folder, self._count = study, folder, count
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, tuple[Any, Connection]] = {}
        self._hands: dict[int, Run] = {}  # what each is at

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exc: object) -> None:
        for process, pipe in self._workers.values():
            process.kill()  # what it was at is recorded up to the last batch
            process.join()
            pipe.close()
        self._workers.clear()

    def perform(self, runs: Sequence[Run]) -> Iterator[Told]:
        """Every run, and word of each as it goes."""
        waiting = _by_problem(runs)
        for number in range(min(self._count, len(runs))):
            self._start(number)
            self._hand(number, waiting)
        while self._hands:
            ready = wait([pipe for _, pipe in self._workers.values()])
            for number, (process, pipe) in list(self._workers.items()):
                if pipe not in ready:
                    continue
                run = self._hands[number]
                try:
                    kind, value = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    yield Told(number, run, 0, None, _failed(self._folder, run, _death(process)))
                    pipe.close()
                    del self._hands[number], self._workers[number]
                    if any(waiting.values()):
                        self._start(number)
                        self._hand(number, waiting)
                    continue
                if kind == "progress":
                    yield Told(number, run, *value)
                    continue
                del self._hands[number]
                self._hand(number, waiting, run)
                yield (
                    Told(number, run, 0, None, busy=value)
                    if kind == "busy"
                    else Told(number, run, value.evaluations, value.best_loss, value)
                )

    def _start(self, number: int) -> None:
        pipe, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._study.to_dict(), str(self._folder.path)), daemon=True
        )
        process.start()
        theirs.close()
        self._workers[number] = process, pipe

    def _hand(self, number: int, waiting: dict[str, list[Run]], before: Run | None = None) -> None:
        """Give a worker its next run, of the problem it has, else of the one that fewest others are at; or end it."""
        names = [name for name, runs in waiting.items() if runs]
        if not names:  # it ends, since nobody will send it anything
            process, pipe = self._workers.pop(number)
            pipe.close()
            process.join()
            return
        held = [run.problem.name for run in self._hands.values()]
        name = before.problem.name if before and before.problem.name in names else min(names, key=held.count)
        run = waiting[name].pop(0)
        self._hands[number] = run
        place = self._study.problems.index(run.problem), self._study.optimizers.index(run.optimizer)
        with contextlib.suppress(OSError):  # one that has died is noticed where its answer is read
            self._workers[number][1].send((*place, run.seed))


def _by_problem(runs: Sequence[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.problem.name, []).append(run)
    return found


def _failed(folder: StudyFolder, run: Run, why: str) -> Ended:
    """Write down that the run has failed before it could begin, or with its process."""
    ended = Ended(run.problem.name, run.optimizer.label, run.seed, "failed", error=why)
    folder.write_ended(run, ended)
    return ended


def _serve(pipe: Connection, values: dict[str, Any], path: str) -> None:
    """A worker: runs that are sent, until nobody sends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever shares out the runs ends this
    end_with_driver()
    import torch

    from llm_problem_adapters.study.one_run import describe, perform

    study, folder = Study.from_json_dict(values), StudyFolder(path)
    torch.set_num_threads(study.policy.threads)
    problem, made = None, None
    broken: dict[str, str] = {}  # problems that could not be made, and why: nobody waits for that again
    while True:
        try:
            which, optimizer, seed = pipe.recv()
        except (EOFError, OSError):
            return
        run = Run(study.problems[which], study.optimizers[optimizer], seed)
        if run.problem.name in broken:
            pipe.send(("ended", _failed(folder, run, broken[run.problem.name])))
            continue
        try:
            if made != run.problem.name:
                problem, made = None, None  # let go of the one before the next is loaded
                problem = run.problem.make()
                if folder.problem(run.problem) is None:
                    folder.write_problem(run.problem, describe(run.problem, problem))
                made = run.problem.name
            pipe.send(("ended", perform(run, problem, study, folder, _show(pipe))))  # type: ignore[arg-type]
        except RecordInUse as error:
            pipe.send(("busy", str(error)))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"[:2_000]
            if made != run.problem.name:
                broken[run.problem.name] = why
            pipe.send(("ended", _failed(folder, run, why)))


def _show(pipe: Connection) -> Any:
    """A callback of `minimize` that sends word now and then."""
    last = time.monotonic()

    def show(progress: Any) -> None:
        nonlocal last
        if time.monotonic() - last >= SHOWN:
            last = time.monotonic()
            pipe.send(("progress", (progress.evaluations, progress.best_loss)))

    return show


def _death(process: Any) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"the process that ran it was killed by {signal.Signals(-code).name}: out of memory?"
    return f"the process that ran it ended with exit code {code}"
