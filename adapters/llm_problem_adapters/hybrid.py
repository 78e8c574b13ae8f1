"""A hybrid of gradient descent and black-box search, in turn.

Steps of Adam (see `gradient`) go where the loss falls; a turn of black-box search about the best point looks at what a
gradient does not see, and Adam goes on from what it finds. For an objective without a gradient see `refinement`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.gradient import GRADIENT_COST, Adam
from llm_problem_adapters.options import integer, positive
from llm_problem_adapters.registry import configure, takes_gradients


class Hybrid(Adam):
    """Turns of Adam and of a black-box optimizer; the best point told is recommended. Not a black-box optimizer itself.

    A turn of the black-box optimizer starts afresh at the best point so far, whose loss it is told without another
    evaluation, with sigma times `scale`. If it finds a better point, Adam takes that one for its own and keeps its
    moments; otherwise Adam goes on from where it was.

    Args:
        searcher: name of the black-box optimizer, of `list_optimizers(gradients=False)`.
        searcher_options: of the black-box optimizer.
        gradient_steps: of Adam in a turn, at least 1.
        evaluations: of the black-box optimizer in a turn, at least 1.
        scale: its step in units of sigma, positive.
        learning_rate: of Adam, in units of sigma, positive.
        gradient_cost: evaluations that a value with its gradient counts as, at least 1.

    Raises:
        TypeError: an option that the black-box optimizer does not have.
        ValueError: an option out of its range, or a searcher that takes gradients itself; from `setup`, a problem that
            the black-box optimizer is not fit for (one that needs bounds, say).
    """

    name = "hybrid"

    def __init__(
        self,
        *,
        searcher: str = "evolution-strategy",
        searcher_options: dict[str, Any] | None = None,
        gradient_steps: int = 10,
        evaluations: int = 30,
        scale: float = 0.3,
        learning_rate: float = 0.3,
        gradient_cost: int = GRADIENT_COST,
    ) -> None:
        super().__init__(learning_rate=learning_rate, gradient_cost=gradient_cost)
        if takes_gradients(searcher):
            raise ValueError(f"the searcher must not take gradients, as {searcher!r} does")
        self.searcher, self.searcher_options = searcher, dict(searcher_options or {})
        configure(self.searcher, **self.searcher_options)  # raises here what is wrong with them
        self.gradient_steps = integer("gradient_steps", gradient_steps, 1)
        self.evaluations = integer("evaluations", evaluations, 1)
        self.scale = positive("scale", scale)

    def _setup(self) -> None:
        super()._setup()
        self._steps = 0  # of Adam in this turn
        self._searcher: BaseOptimizer | None = None  # in a turn of black-box search
        self._before = np.inf  # the best loss when that turn began
        self._left = 0  # evaluations of it
        self._started(self.space.x0, 0)  # raises here, not in the middle of a run, what this problem is not fit for

    def _is_gradient_step(self) -> bool:
        return self._searcher is None

    def _ask(self) -> np.ndarray:
        return super()._ask() if self._searcher is None else self._searcher.ask(self._left)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        if self._searcher is None:
            super()._tell(X, F)
            self._steps += 1
            if self._steps >= self.gradient_steps and np.isfinite(self.best_loss):
                self._begin_search()
            return
        self._searcher.tell(X, F)
        self._left -= len(X)
        if not self._left or self._searcher.stop_reason is not None:
            self._end_search()

    def _begin_search(self) -> None:
        self._searcher = self._started(self.best_x, int(self.rng.integers(2**31)))  # ~ U{0..2³¹−1}
        self._searcher.penalty = self.penalty
        self._searcher.tell(self._searcher.ask(1), np.array([self.best_loss]))  # its x0, evaluated already
        self._before, self._left = self.best_loss, self.evaluations
        if self._searcher.stop_reason is not None:
            self._end_search()

    def _started(self, x: np.ndarray, seed: int) -> BaseOptimizer:
        """The black-box optimizer at x (d,)."""
        return configure(self.searcher, **self.searcher_options).setup(
            dimension=self.space.dimension,
            x0=x,
            bounds=(self.space.lower, self.space.upper),
            sigma=self.scale * self.space.sigma,
            horizon=self.evaluations + 1,
            batch_size=self.batch_size,
            seed=seed,
        )

    def _end_search(self) -> None:
        if self.best_loss < self._before:
            self._x, self._step = self.best_x.copy(), np.zeros(self.space.dimension)
        self._searcher, self._steps = None, 0
