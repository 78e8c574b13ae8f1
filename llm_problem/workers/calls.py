"""What a pool is asked for, and the parts in which workers get it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


class Call:
    """One call of a method for n points: an outcome for each row, as they come."""

    def __init__(self, method: str, X: np.ndarray, options: dict[str, Any]) -> None:
        self.method, self.X, self.options = method, X, options
        self.outcomes: list[Any] = [None] * len(X)
        self._open = set(range(len(X)))
        self.outside = False  # whether somebody was seen to kill workers meanwhile, whatever they had in hand

    @property
    def left(self) -> int:
        """Rows without an outcome."""
        return len(self._open)

    @property
    def done(self) -> bool:
        return not self._open

    def settle(self, place: int, outcome: Any) -> None:
        """The outcome of a row; one that has one keeps it."""
        if place in self._open:
            self.outcomes[place] = outcome
            self._open.discard(place)

    def abandon(self, error: Exception) -> None:
        """This is the outcome of every row that has none."""
        for place in list(self._open):
            self.settle(place, error)

    def chunks(self, size: int) -> list[Chunk]:
        """All rows, so many at a time."""
        n = len(self.X)
        return [Chunk(self, list(range(first, min(first + size, n)))) for first in range(0, n, size)]


@dataclass(eq=False)
class Chunk:
    """Rows of a call that one worker evaluates together."""

    call: Call
    places: list[int]
    deaths: int = 0  # of workers that had this in hand, a single point
    killed: bool = False  # one of them, by a signal
    why: str = ""  # the last of them is gone

    def singly(self) -> list[Chunk]:
        """A chunk for each of its rows."""
        return [Chunk(self.call, [place]) for place in self.places]
