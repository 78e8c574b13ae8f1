"""(1+1) evolution strategy with the 1/5 success rule (Rechenberg, 1973).

Sources: I. Rechenberg, *Evolutionsstrategie: Optimierung technischer Systeme nach Prinzipien der biologischen
Evolution*, 1973 (the rule); S. Kern et al., *Learning probability distributions in continuous evolutionary algorithms –
a comparative review*, Natural Computing 3, 2004 (a success multiplies the step by α, a failure by α^(−1/4)); N. Hansen,
D. Arnold, A. Auger, *Evolution Strategies*, 2015, section 3.1 (the same with α = exp(0.8/√(d + 1))).
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.options import choice, positive
from llm_problem_adapters.simulated_annealing import reflect

BOUNDARIES = ("reflect", "clip")
TARGET = 1 / 5  # share of successes that keeps the step


class EvolutionStrategy(BaseOptimizer):
    """One parent x, one offspring x' ~ N(x, (s·sigma)²), the better one stays, and s follows the successes.

    A generation is one offspring; with a `batch_size` of k it is k offspring of one parent, judged in order: each is
    accepted or not against the parent that the ones before it left, and is a success if it is no worse than the parent
    they all come from.

    Args:
        first_move: length of the first moves in units of sigma, positive: s begins at first_move/√d.
        max_step: the most that s, the step of one coordinate in units of sigma, may grow to; positive. On a plateau
            every offspring is a success.
        damping: D, positive: log s changes by (success − 1/5)/D at each offspring; None is √(d + 1).
        boundary: "reflect" or "clip" what leaves the bounds.

    Raises:
        ValueError: an option out of its range.
    """

    name = "evolution-strategy"

    def __init__(
        self,
        *,
        # From a distance R the best s on a sphere is 1.2 R/d (Rechenberg, 1973), and √d is how far N(0, I) reaches. It
        # is soon adapted: first moves of 0.3 and 3 come to the same (`experiments.defaults`).
        first_move: float = 1.0,
        max_step: float = 5.0,
        damping: float | None = None,
        boundary: str = "reflect",
    ) -> None:
        self.first_move = positive("first_move", first_move)
        self.max_step = positive("max_step", max_step)
        self.damping = None if damping is None else positive("damping", damping)
        self.boundary = choice("boundary", boundary, BOUNDARIES)

    def _setup(self) -> None:
        self._parent, self._loss = self.space.x0, np.inf  # (d,) and its loss; +inf also while it is not known
        self._s = min(self.max_step, self.first_move / np.sqrt(self.space.dimension))  # step of a coordinate, in sigmas

    def _tell_x0(self, loss: float) -> None:
        self._loss = loss

    def _ask(self) -> np.ndarray:
        X = self.rng.standard_normal((self.batch_size or 1, self.space.dimension))  # (k, d) ~ N(0, I)
        X *= self._s * self.space.sigma
        X += self._parent
        if self.boundary == "reflect":
            X = reflect(X, self.space.lower, self.space.upper)
        return self.space.clip(X)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        start = self._loss
        for x, loss in zip(X, F, strict=True):
            if np.isfinite(loss) and loss <= self._loss:
                self._parent, self._loss = x, float(loss)
        if np.isfinite(start):  # nothing is learnt about the step where there was nothing to compare with
            damping = np.sqrt(self.space.dimension + 1) if self.damping is None else self.damping
            change = float(np.sum((start >= F) - TARGET)) / damping  # Hansen et al. 2015
            # At most a factor of e at once, for a large batch says the same thing k times.
            self._s = min(self.max_step, self._s * float(np.exp(np.clip(change, -1, 1))))
