"""The one thing an optimizer has to be: ask, tell, recommend.

`minimize` of the adapter layer and the comparison studies drive every algorithm through this protocol, the
project's own as well as those of Nevergrad, pymoo and pycma.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Optimizer(Protocol):
    """An ask/tell minimiser over R^d.

    The driver calls `ask`, evaluates, and calls `tell` with the same points in the same order, strictly in turn.
    """

    stop_reason: str | None
    """Why the optimizer will not go on (its own convergence test, say), or None while it can be asked."""

    def ask(self, max_n: int) -> np.ndarray:
        """Propose the next points to evaluate.

        Args:
            max_n: how many evaluations the driver can still afford in this step, at least 1.

        Returns:
            X, (k, d) float64 with 1 ≤ k ≤ max_n. An algorithm whose generation is larger than `max_n` hands out
            the generation in parts; the trajectory does not depend on how it was cut.
        """
        ...

    def tell(self, X: np.ndarray, F: np.ndarray, G: np.ndarray | None = None) -> None:
        """Report the losses of the points of the last `ask`.

        Args:
            X: (k, d), the array that `ask` returned.
            F: (k,) losses to be minimised (or (k, m) for several objectives), finite.
            G: (k, c) constraint values, feasible where ≤ 0, finite; given only to an optimizer with a true attribute
                `handles_constraints`; others are told losses that put what is infeasible behind what is feasible.
        """
        ...

    def recommend(self) -> np.ndarray:
        """The point (d,) the algorithm would answer with now; not necessarily one that was evaluated."""
        ...
