"""Limits of a run: time in all, and time and memory of one evaluation.

Python cannot break off a call that does not come back, nor take memory from itself: an evaluation that may be given up
is made in a process of its own, which can be killed. The problem is built there once; a killed one is built again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llm_problem.workers.errors import Killed, NotBuilt, TimedOut
from llm_problem.workers.serving import end_with_driver, sendable
from llm_problem_adapters.options import integer, positive

METHODS = ("evaluate", "evaluate_all", "race", "value_and_grad")
START_SECONDS = 1800.0  # in which a problem is built
_LOOK = 0.05  # seconds between looks at the memory


@dataclass(frozen=True)
class Limits:
    """The limits, for `minimize(…, limits=Limits(…))`.

    Args:
        seconds: of this call of `minimize`, after which nothing more is evaluated; what is being evaluated is finished,
            and there is always something. The run can be resumed.
        evaluation_seconds: of one evaluation, which is then given up: status "timed out". Points are evaluated one by
            one, in a process of their own, to which the problem must be picklable.
        memory: bytes of that process, resident; an evaluation that passes it is given up: status "failed".
        apart: evaluate in such a process without a limit, so that one that is killed (for memory, by the system) takes
            nothing with it; what then becomes of the run is said by `errors`.

    Raises:
        ValueError: a limit that is not positive.
    """

    seconds: float | None = None
    evaluation_seconds: float | None = None
    memory: int | None = None
    apart: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds", "evaluation_seconds"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if self.memory is not None:
            integer("memory", self.memory, 1)

    @classmethod
    def of(cls, limits: Limits | Mapping[str, Any] | None) -> Limits:
        """From what `minimize` takes."""
        return limits if isinstance(limits, Limits) else cls(**(limits or {}))

    @property
    def of_one(self) -> bool:
        """Whether there is a limit for a single evaluation."""
        return self.evaluation_seconds is not None or self.memory is not None

    @property
    def needs_process(self) -> bool:
        return self.of_one or self.apart


class Apart:
    """A problem evaluated in a process of its own, with limits.

    Args:
        problem: any that can be pickled.
        limits: of each call of an evaluating method.

    Raises:
        ValueError: the problem cannot be pickled.
    """

    def __init__(self, problem: Any, limits: Limits) -> None:
        self._problem, self._limits = problem, limits
        self._process: Any = None
        self._pipe: Any = None
        try:
            self._pickled = pickle.dumps(problem)
        except Exception as error:
            raise ValueError(
                f"limits of one evaluation need a problem that another process can be sent, and {problem!r} cannot be "
                f"pickled: {error}"
            ) from error

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._problem, name)
        return self._caller(name) if name in METHODS else found

    def _caller(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def _call(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        if self._process is None:
            self._start()
        try:
            self._pipe.send((name, args, kwargs))
            kind, value = self._answer(self._limits.evaluation_seconds)
        except (TimedOut, Killed):
            self.close()
            raise
        except (EOFError, OSError):
            raise Killed(self._death()) from None
        except BaseException:  # an interruption: what comes later must not be taken for the next answer
            self.close()
            raise
        if kind == "error":
            raise value
        return value

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
        process = context.Process(target=_serve, args=(theirs, self._pickled, threads), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        apart = "the problem was not built in a process of its own"
        try:
            kind, value = self._answer(START_SECONDS)
            self._require_memory()
        except (EOFError, OSError):
            guard = 'a script is imported there: call minimize under if __name__ == "__main__"'
            raise NotBuilt(f"{apart}: {self._death()} ({guard})") from None
        except Killed as error:
            self.close()
            raise NotBuilt(f"the memory limit is too small for the problem itself: {error}") from None
        except TimedOut as error:
            self.close()
            raise NotBuilt(f"{apart}: {error}") from None
        except BaseException:
            self.close()
            raise
        if kind == "error":
            self.close()
            raise NotBuilt(f"{apart}: {type(value).__name__}: {value}") from value

    def _answer(self, seconds: float | None) -> tuple[str, Any]:
        end = None if seconds is None else time.monotonic() + seconds
        while not self._pipe.poll(_LOOK):
            if end is not None and time.monotonic() > end:
                raise TimedOut(f"longer than {seconds:g} seconds")
            self._require_memory()
        return self._pipe.recv()

    def _require_memory(self) -> None:
        if self._limits.memory is None:
            return
        import psutil

        with contextlib.suppress(psutil.Error):
            used = psutil.Process(self._process.pid).memory_info().rss
            if used > self._limits.memory:
                raise Killed(f"its process took {used:,} bytes, more than {self._limits.memory:,}")

    def _death(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        self.close()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = ", which the system sends where memory runs out" if name == "SIGKILL" else ""
            return f"the process that evaluated was killed by {name}{why}"
        return f"the process that evaluated has ended with exit code {code}"

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = self._pipe = None


def _serve(pipe: Any, pickled: bytes, threads: int | None) -> None:
    """The other process: build the problem, answer calls until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that drives the run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_driver()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    try:
        problem = pickle.loads(pickled)
    except Exception as error:
        pipe.send(("error", sendable(error)))
        return
    pipe.send(("ready", None))
    while True:
        try:
            name, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("value", getattr(problem, name)(*args, **kwargs))
            pickle.dumps(answer)
        except Exception as error:
            answer = ("error", sendable(error))
        pipe.send(answer)
