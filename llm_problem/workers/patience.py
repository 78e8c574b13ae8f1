"""When workers that die before they have built the problem are too many.

A problem that cannot be built must end the run, and soon. But where workers are killed from outside, those that replace
them are killed too, some of them before they are ready; that says nothing of the problem, and it may pass. So may what
keeps one that was built before from being built again, such as a file that is away or memory that is short.
"""

from __future__ import annotations

import time

BUILDS = 5  # workers lost one after another while they build, with none that is built, before it is given up
SECONDS = 300.0  # for which it is tried all the same, where the problem was built before
REST = 30.0  # seconds at most between two tries, where one after another comes to nothing


class Patience:
    """Counts workers lost while they built.

    Args:
        seconds: without a sign of life, in which workers are replaced however many die.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._lost, self._once, self._last = seconds, 0, False, time.monotonic()
        self._unbuilt, self._again = 0, self._last  # lost since one was built, and when there may be another

    def built(self) -> None:
        """A worker has built the problem."""
        self._unbuilt, self._again = 0, time.monotonic()
        self.alive()

    def alive(self) -> None:
        """A worker was built, or has answered."""
        self._lost, self._once, self._last = 0, True, time.monotonic()

    def rest(self) -> float:
        """Seconds for which none is to be started."""
        return max(0.0, self._again - time.monotonic())

    def over(self, killed: bool, others: bool) -> bool:
        """Count one more worker that was lost; whether it is to be given up.

        Args:
            killed: from outside; otherwise it ended by itself, as it would again.
            others: whether there are workers that are built.
        """
        self._lost, self._unbuilt = self._lost + 1, self._unbuilt + 1
        if self._unbuilt >= BUILDS:
            self._again = time.monotonic() + min(REST, 2.0 ** min(10, self._unbuilt - BUILDS))
        if not self._once:
            return not killed or self._lost >= BUILDS
        return self._lost >= BUILDS and not others and time.monotonic() > self._last + self._seconds
