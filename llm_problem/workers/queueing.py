"""Which points wait, and what becomes of those whose worker died.

Two workers that die with one point and nothing else in hand say that it is the point's fault; unless workers are being
killed from outside, which hits some twice by chance. So a suspect waits until all others of its call are through. If
meanwhile a worker was killed that had nothing in hand, or a point went well that had cost one, it is tried again. What
was seen in earlier calls does not count, nor does a worker that ended by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from llm_problem.workers.calls import Call, Chunk
from llm_problem.workers.errors import Killed

TRIES = 2  # workers that a single point may cost before it has failed
MOST = 8  # where workers are known to be killed whatever they do


class Queue:
    """Chunks in the order in which they were asked for."""

    def __init__(self) -> None:
        self._waiting: deque[Chunk] = deque()
        self._suspects: list[Chunk] = []
        self._calls: set[Call] = set()  # that are not done

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, call: Call, size: int) -> None:
        """Have all rows of a call wait, so many a chunk."""
        if not call.done:
            self._calls.add(call)
            self._waiting.extend(call.chunks(size))

    def take(self) -> Chunk:
        """The next."""
        return self._waiting.popleft()

    def put_back(self, chunk: Chunk) -> None:
        """It was taken, and nothing came of it, which is nobody's fault."""
        if not chunk.call.done:
            self._waiting.appendleft(chunk)

    def answered(self, chunk: Chunk, kind: str, value: Any) -> None:
        """Its worker said "rows" and one for each point, or "error" and an exception."""
        if kind == "rows":
            if chunk.killed:
                self._seen_outside()
            for place, row in zip(chunk.places, value, strict=True):
                chunk.call.settle(place, row)
            self._judge(chunk.call)
        elif len(chunk.places) > 1:  # whose it is
            self._singly(chunk)
        else:
            self.failed(chunk, value)

    def failed(self, chunk: Chunk, error: Exception) -> None:
        """A single point has come to this end."""
        chunk.call.settle(chunk.places[0], error)
        self._judge(chunk.call)

    def killed(self, chunk: Chunk | None, why: str, killed: bool = True) -> None:
        """A worker is gone that had this in hand: killed by a signal, or it ended by itself."""
        if chunk is None:
            if killed:
                self._seen_outside()
        elif len(chunk.places) > 1:  # a smaller one may fit, and is blamed with certainty
            self._singly(chunk)
        else:
            chunk.deaths, chunk.why, chunk.killed = chunk.deaths + 1, why, chunk.killed or killed
            if chunk.deaths < TRIES:
                self.put_back(chunk)
            else:
                self._suspects.append(chunk)
                self._judge(chunk.call)

    def cancel(self, call: Call, error: Exception) -> None:
        """Nothing of it waits any more, and what is in hand is too late."""
        self._waiting = deque(chunk for chunk in self._waiting if chunk.call is not call)
        self._suspects = [chunk for chunk in self._suspects if chunk.call is not call]
        self._calls.discard(call)
        call.abandon(error)

    def abandon(self, error: Exception) -> None:
        """Nothing waits any more: this is what every call ends with, for what is in hand too."""
        self._waiting.clear()
        self._suspects.clear()
        while self._calls:
            self._calls.pop().abandon(error)

    def _seen_outside(self) -> None:
        for call in self._calls:
            call.outside = True

    def _singly(self, chunk: Chunk) -> None:
        if not chunk.call.done:
            self._waiting.extendleft(reversed(chunk.singly()))

    def _judge(self, call: Call) -> None:
        """Decide about a call's suspects where nothing else of it is left."""
        suspects = [chunk for chunk in self._suspects if chunk.call is call]
        for chunk in suspects if call.left <= len(suspects) else ():
            self._suspects.remove(chunk)
            if call.outside and chunk.deaths < MOST:
                self.put_back(chunk)
            else:
                call.settle(chunk.places[0], Killed(f"{chunk.why}, {chunk.deaths} times with this point"))
        if call.done:
            self._calls.discard(call)
