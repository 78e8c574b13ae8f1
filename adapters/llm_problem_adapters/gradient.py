"""Adam (Kingma and Ba, 2015) in the subspace: the reference that cheats, since it is given gradients.

Sources: D. Kingma, J. Ba, *Adam: a method for stochastic optimization*, arXiv:1412.6980; I. Loshchilov, F. Hutter,
*SGDR: stochastic gradient descent with warm restarts*, arXiv:1608.03983 (the fall of the learning rate, without
restarts); J. Kaplan et al., *Scaling laws for neural language models*, arXiv:2001.08361, section 2.1 (a backward pass
computes about twice as much as a forward pass).

What a gradient costs is a convention: a value with its gradient is charged as three evaluations, one for the forward
and two for the backward pass. It says nothing of memory: backpropagation keeps activations that no evaluation keeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.options import integer, number, positive

GRADIENT_COST = 3  # evaluations that a value with its gradient is charged as


class GradientOptimizer(BaseOptimizer):
    """Books for an algorithm that is no black-box optimizer: the driver gives it gradients where it wants them.

    After each `ask`, `wants_gradients` says whether the points are to be told with the gradients of their losses; each
    then counts as `gradient_cost` evaluations. What `ask` may still spend where that is less than a gradient costs, it
    spends on losses alone. `minimize` knows all this.

    A subclass finds the gradients (k, d) of the generation that is told in `self.gradients`, None where only losses
    were, and hands out its whole generation at once, one point, where it wants them.
    """

    gradient_cost = GRADIENT_COST
    wants_gradients = False
    gradients: np.ndarray | None = None

    def ask(self, max_n: int) -> np.ndarray:
        """The next points (k, d); k · gradient_cost ≤ max_n where gradients are wanted. See `BaseOptimizer.ask`."""
        self._require_set_up()
        wanted = max_n >= self.gradient_cost and self._is_gradient_step()
        X = super().ask(max_n // self.gradient_cost if wanted else max_n)
        self.wants_gradients = wanted
        return X

    def tell(
        self, X: np.ndarray, F: np.ndarray, G: np.ndarray | None = None, *, gradients: np.ndarray | None = None
    ) -> None:
        """Report the losses F (k,), and their gradients (k, d) where they were wanted; otherwise `BaseOptimizer.tell`.

        Raises:
            ValueError: constraints, or gradients that are missing, not wanted or of another shape.
        """
        if G is not None and np.size(G):
            raise ValueError(f"{self.name} follows the gradient of the loss, and takes no constraints")
        if (gradients is not None) != self.wants_gradients:
            raise ValueError(
                f"{self.name} {'wants' if self.wants_gradients else 'did not want'} gradients with the last points; "
                "its wants_gradients says so after each ask"
            )
        self.gradients = None if gradients is None else np.array(gradients, dtype=np.float64)
        if self.gradients is not None and self.gradients.shape != np.shape(X):
            raise ValueError(f"gradients must have shape {np.shape(X)}, got {self.gradients.shape}")
        super().tell(X, F)

    def _charge(self, points: int) -> int:
        return points if self.gradients is None else points * self.gradient_cost

    def _is_gradient_step(self) -> bool:
        """Whether the coming points are to be told with gradients."""
        return True


class Adam(GradientOptimizer):
    """Gradient descent with running moments, projected onto the bounds; the best point told is recommended.

    It starts at x0, whose gradient is its first, whatever `start_at_x0` is, and searches in units of sigma, so that one
    step moves a coordinate by about the learning rate times its sigma. Evaluations that are too few for a gradient go
    further along the last step.

    A loss or gradient that is not finite halves the way from the last point that had both, and ends the momentum; where
    x0 has none, it stops.

    Args:
        learning_rate: α, in units of sigma, positive.
        beta1: β₁ in [0, 1), share of the mean of gradients that is kept.
        beta2: β₂ in [0, 1), share of the mean of their squares that is kept.
        epsilon: ε, added to the root of that mean, positive.
        decay: whether the learning rate falls to zero over the horizon, as half a cosine.
        gradient_cost: evaluations that a value with its gradient counts as, at least 1.

    Raises:
        ValueError: an option out of its range.
    """

    name = "adam"

    def __init__(
        self,
        *,
        # Measured by `experiments.defaults` (two tiny problems, 5 seeds): with 100 evaluations 0.3 is near 1, which
        # runs into the bounds, and far before 0.1; with 500 they come to the same.
        learning_rate: float = 0.3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        decay: bool = True,
        gradient_cost: int = GRADIENT_COST,
    ) -> None:
        self.learning_rate = positive("learning_rate", learning_rate)
        self.beta1 = number("beta1", beta1, 0, 1, below=True)
        self.beta2 = number("beta2", beta2, 0, 1, below=True)
        self.epsilon = positive("epsilon", epsilon)
        self.decay = bool(decay)
        self.gradient_cost = integer("gradient_cost", gradient_cost, 1)

    def _setup(self) -> None:
        d = self.space.dimension
        self._x = self.space.x0.copy()  # (d,)
        self._m, self._v, self._t = np.zeros(d), np.zeros(d), 0  # moments of the gradient, and how many it has seen
        self._step = np.zeros(d)  # the last one, as it was after the projection
        self._last_finite: np.ndarray | None = None  # the last point with a finite loss and gradient

    def _tell_x0(self, loss: float) -> None:
        self._tell(self.space.x0[None, :], np.array([loss]))

    def _ask(self) -> np.ndarray:
        return self._x[None, :]

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        if self.gradients is None:
            self._x = self.space.clip(self._x + self._step)
        elif np.isfinite(F[0]) and np.isfinite(self.gradients[0]).all():
            self._descend(self.gradients[0])
        else:
            self._retreat()

    def _descend(self, gradient: np.ndarray) -> None:
        g = gradient * self.space.sigma  # (d,) of the loss as a function of x in units of sigma
        self._t += 1
        self._m = self.beta1 * self._m + (1 - self.beta1) * g  # Kingma & Ba 2015, algorithm 1
        self._v = self.beta2 * self._v + (1 - self.beta2) * g**2
        m = self._m / (1 - self.beta1**self._t)
        v = self._v / (1 - self.beta2**self._t)
        step = -self._rate() * m / (np.sqrt(v) + self.epsilon) * self.space.sigma
        self._last_finite = self._x
        self._x = self.space.clip(self._last_finite + step)
        self._step = self._x - self._last_finite

    def _retreat(self) -> None:
        if self._last_finite is None:
            self.stop_reason = f"{self.name}: neither loss nor gradient is finite at the start"
        else:
            self._x = (self._last_finite + self._x) / 2
            self._m = np.zeros(self.space.dimension)

    def _rate(self) -> float:
        progress = min(1.0, self.evaluations_told / self.horizon) if self.decay else 0.0
        fall = (1 + np.cos(np.pi * progress)) / 2  # Loshchilov & Hutter 2017
        return float(self.learning_rate * fall)


def wants_gradients(optimizer: Any) -> bool:
    """Whether the points of the optimizer's last `ask` are to be told with gradients."""
    return bool(getattr(optimizer, "wants_gradients", False))
