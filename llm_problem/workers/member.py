"""One worker of a pool as the driver keeps books of it, whatever it is."""

from __future__ import annotations

import time
from typing import Any

from llm_problem.workers.calls import Chunk


class Member:
    """A worker; it is building from the start on, and then has a chunk in hand or none."""

    def __init__(self) -> None:
        self.ready = False
        self.leaving = False  # gets nothing more
        self.chunk: Chunk | None = None  # in hand
        self.end: float | None = None  # when what it does is given up
        self.facts: dict[str, Any] = {}
        self.began = time.monotonic()

    @property
    def idle(self) -> bool:
        return self.ready and self.chunk is None and not self.leaving

    def give(self, chunk: Chunk, seconds: float | None) -> None:
        """Send it a chunk, for so many seconds a point."""
        self.chunk = chunk  # before it is sent: who is interrupted while sending is not idle
        self.end = None if seconds is None else time.monotonic() + seconds * len(chunk.places)
        self._send(chunk)

    def spoke(self) -> bool:
        """Whether something that it said waits to be heard."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it now, and leave nothing of it."""
        raise NotImplementedError

    def _send(self, chunk: Chunk) -> None:
        raise NotImplementedError
