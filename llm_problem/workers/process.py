"""One worker as the driver sees it: a process and a pipe."""

from __future__ import annotations

import contextlib
import os
import signal

from llm_problem.workers.calls import Chunk
from llm_problem.workers.member import Member
from llm_problem.workers.serving import serve
from llm_problem.workers.starting import context, without_missing_script

LOST = 255  # exit code of a process whose fork server was killed


class Worker(Member):
    """A process that builds the problem and answers.

    Args:
        recipe: see `recipe_of`.
        threads: of each library in it.
    """

    def __init__(self, recipe: bytes, threads: int) -> None:
        super().__init__()
        self.number = 0  # of the last call, so that an answer to an earlier one is told apart
        self._start(recipe, threads)

    def _start(self, recipe: bytes, threads: int) -> None:
        way = context()
        self.pipe, theirs = way.Pipe()
        self.process = way.Process(target=serve, args=(theirs, recipe, threads, dict(os.environ)), daemon=True)
        with without_missing_script():
            self.process.start()
        theirs.close()

    def spoke(self) -> bool:
        return self.pipe.closed or bool(self.pipe.poll())

    def _send(self, chunk: Chunk) -> None:
        self.number, call = self.number + 1, chunk.call
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
