"""One worker as the driver sees it: a process and a pipe."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass, field
from typing import Any

from llm_problem.workers.calls import Chunk
from llm_problem.workers.serving import serve
from llm_problem.workers.starting import context

LOST = 255  # exit code of a process whose fork server was killed


@dataclass(eq=False)
class Worker:
    """A process that builds the problem and answers.

    Args:
        recipe: see `recipe_of`.
        threads: of each library in it.
    """

    recipe: bytes
    threads: int
    ready: bool = False
    leaving: bool = False  # gets nothing more
    chunk: Chunk | None = None  # in hand
    number: int = 0  # of the last call, so that an answer to an earlier one is told apart
    end: float | None = None  # when what it does is given up
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        way = context()
        self.pipe, theirs = way.Pipe()
        self.process = way.Process(target=serve, args=(theirs, self.recipe, self.threads), daemon=True)
        self.process.start()
        theirs.close()
        self.began = time.monotonic()

    @property
    def idle(self) -> bool:
        return self.ready and self.chunk is None and not self.leaving

    def give(self, chunk: Chunk, seconds: float | None) -> None:
        """Send it a chunk, for so many seconds a point."""
        self.chunk, self.number = chunk, self.number + 1
        self.end = None if seconds is None else time.monotonic() + seconds * len(chunk.places)
        call = chunk.call
        with contextlib.suppress(OSError):  # one that has died is noticed where its answer is read
            self.pipe.send((self.number, call.method, call.X[chunk.places], call.options))

    def memory(self) -> int:
        """Bytes resident, 0 of a process that is gone."""
        import psutil

        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def kill(self) -> None:
        """End it now, and leave no zombie."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it; or its fork server, in which case nobody knows."""
        code = self.process.exitcode
        return code is None or code < 0 or code == LOST

    def death(self) -> str:
        """Why it is gone."""
        self.process.join(5)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            why = ", which the system sends where memory runs out" if name == "SIGKILL" else ""
            return f"the process that evaluated was killed by {name}{why}"
        return f"the process that evaluated has ended with exit code {code}"
