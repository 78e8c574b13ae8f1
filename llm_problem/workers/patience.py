"""When workers that die before they have built the problem are too many.

A problem that cannot be built must end the run, and soon. But where workers are killed from outside, those that replace
them are killed too, some of them before they are ready; that says nothing of the problem, and it may pass.
"""

from __future__ import annotations

import time

BUILDS = 5  # workers lost one after another while they build, with none that is built, before it is given up
SECONDS = 300.0  # for which it is tried all the same, where the problem was built before


class Patience:
    """Counts workers lost while they built.

    Args:
        seconds: without a sign of life, in which workers are replaced however many die.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._lost, self._once, self._last = seconds, 0, False, time.monotonic()

    def alive(self) -> None:
        """A worker was built, or has answered."""
        self._lost, self._once, self._last = 0, True, time.monotonic()

    def over(self, killed: bool, others: bool) -> bool:
        """Count one more worker that was lost; whether it is to be given up.

        Args:
            killed: from outside; otherwise it ended by itself, as it would again.
            others: whether there are workers that are built.
        """
        self._lost += 1
        if not self._once:
            return not killed or self._lost >= BUILDS
        return self._lost >= BUILDS and not others and time.monotonic() > self._last + self._seconds
