"""Problems that cost nothing, and some that misbehave."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np


class Free:
    """‖x − 1‖² from x0 = 0 in [−5, 5]ᵈ.

    Args:
        dimension: d.
        seconds: that each evaluation takes.
    """

    sigma = 1.0

    def __init__(self, dimension: int = 4, seconds: float = 0.0) -> None:
        self.dimension, self.seconds = dimension, seconds
        self.x0, self.bounds = np.zeros(dimension), (np.full(dimension, -5.0), np.full(dimension, 5.0))
        self.evaluations = 0

    def evaluate(self, X: np.ndarray) -> Any:
        self.evaluations += len(X)
        if self.seconds:
            time.sleep(self.seconds * len(X))
        return np.square(X - 1.0).sum(axis=1)


VALUES: dict[str, Any] = {
    "NaN": np.nan,
    "+inf": np.inf,
    "-inf": -np.inf,
    "None": None,
    "a string": "low",
    "a complex number": -1e9j,
}
DEEDS = ("raises", "hangs", "is killed", "takes memory")


class Misbehaving(Free):
    """The same, but for a part of the points, told by a hash of theirs.

    Args:
        how: a key of `VALUES`, which is returned, or one of `DEEDS`, which is done.
        one_in: points to one that misbehaves; x0 does not.
    """

    def __init__(self, how: str, one_in: int = 3, dimension: int = 3) -> None:
        super().__init__(dimension)
        self.how, self.one_in = how, one_in

    def spoilt(self, x: np.ndarray) -> bool:
        """Whether it misbehaves at x (d,)."""
        return int(np.abs(x).sum() * 1e6) % self.one_in == 1

    def evaluate(self, X: np.ndarray) -> Any:
        losses, spoilt = super().evaluate(X), [self.spoilt(x) for x in X]
        if not any(spoilt):
            return losses
        if self.how in VALUES:
            return [VALUES[self.how] if bad else loss for bad, loss in zip(spoilt, losses, strict=True)]
        if self.how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        hold = []
        while self.how == "hangs":
            time.sleep(1)
        while self.how == "takes memory":
            hold.append(np.ones(2**23))  # 64 MB
            time.sleep(0.02)
        raise RuntimeError("this objective fails here")
