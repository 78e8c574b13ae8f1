"""Simultaneous perturbation stochastic approximation (Spall, 1992), in the form of MeZO (Malladi et al., 2023).

Sources: J. Spall, *Multivariate stochastic approximation using a simultaneous perturbation gradient approximation*,
IEEE TAC 37(3), 1992; S. Malladi et al., *Fine-tuning language models with just forward passes*, arXiv:2305.17333
(normal directions, definition 1 and algorithm 1; several directions a step, n-SPSA). Normalised steps: H. Mania, A.
Guy, B. Recht, *Simple random search provides a competitive approach to reinforcement learning*, arXiv:1803.07055
(differences divided by their standard deviation), with D. Kingma, J. Ba, arXiv:1412.6980 for the running second moment.

Symbols: z a direction, c the half-width of a pair, a the gain, g the projected gradient.
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import LARGEST, BaseOptimizer
from llm_problem_adapters.feasibility import behind_the_worst, violations
from llm_problem_adapters.options import number, positive

# Times the half-width is halved at most where pairs have no finite difference.
HALVINGS = 20


class SPSA(BaseOptimizer):
    """Two evaluations a step, at x ± c·z, and a step along z by their difference; the x reached is recommended.

    Directions are drawn for x in units of sigma, where x = x0 + sigma·y. A generation is one pair; with a `batch_size`
    of 2k it is k pairs about one x, and the step is the mean of theirs. A point of a pair that leaves the bounds is
    moved to the nearest value inside them, and the direction is the one between the two points as they are. x itself is
    not evaluated until it is recommended, but for x0 with `start_at_x0`.

    Of a pair with one loss that is not finite only the sign of g is known: it steps away from that side, by g's root
    mean square. While no pair of a step has two finite losses the next ones are half as wide, and with each step that
    learnt something twice as wide again, up to c; where no loss is finite x goes back half the way to where it learnt
    last. Infeasible points stand behind the feasible ones of their step by their violation, which is a difference like
    that of losses.

    Args:
        gain: a, positive: a step along z is a·g long, or with `normalised` a·g over g's root mean square; None is 5.0,
            or 0.2 with `normalised`. The first kind depends on the scale of the losses, the second does not.
        width: c, in units of sigma, positive.
        normalised: divide g by the root of its running mean of squares; MeZO's own g is taken as it is.
        memory: share in [0, 1) of that mean that is kept from one step to the next; only with `normalised`.
        decay: whether the gain falls linearly to zero over the horizon; MeZO's is constant.
        max_step: the most that a coefficient of z may be, in units of sigma, positive; a steep difference does not
            throw x further.

    Raises:
        ValueError: an option out of its range.
    """

    name = "spsa"
    handles_constraints = True

    def __init__(
        self,
        *,
        # Measured by `experiments.defaults` (two tiny problems, 500 evaluations, 5 seeds): normalised gains of 0.2 and
        # 0.5 come to the same, 0.05 is slow; widths of 0.1 and 0.3, and a gain of 5 as it is, do as well.
        gain: float | None = None,
        width: float = 0.1,
        normalised: bool = True,
        memory: float = 0.9,
        decay: bool = True,
        max_step: float = 0.5,
    ) -> None:
        self.normalised, self.decay = bool(normalised), bool(decay)
        self.gain = positive("gain", (0.2 if self.normalised else 5.0) if gain is None else gain)
        self.width = positive("width", width)
        self.memory = number("memory", memory, 0, 1, below=True)
        self.max_step = positive("max_step", max_step)

    def _setup(self) -> None:
        self._x = self._learnt_at = self.space.x0.copy()  # (d,) now, and where a pair last had two finite losses
        self._halvings = 0  # of the width
        self._square = 0.0  # running mean of g², not corrected for its start at 0
        self._t = 0  # steps that went into it

    def _ask(self) -> np.ndarray:
        pairs = max(1, (self.batch_size or 2) // 2)
        Z = self.rng.standard_normal((pairs, 1, self.space.dimension))  # (k, 1, d) ~ N(0, I)
        Z = np.concatenate([Z, -Z], axis=1).reshape(2 * pairs, -1)  # (2k, d): the two of a pair stand together
        return self.space.clip(self._x + self._width * self.space.sigma * Z)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        if self.G is not None:
            F = behind_the_worst(F, violations(self.G))
        F = np.where(np.isfinite(F), np.clip(F, -LARGEST, LARGEST), F)
        plus, minus = F[0::2], F[1::2]  # (k,)
        both, some = np.isfinite(plus) & np.isfinite(minus), np.isfinite(plus) | np.isfinite(minus)
        x = self._x
        if some.any():
            Z = (X[0::2] - X[1::2]) / (2 * self._width)  # (k, d) z in units of x
            steps = np.clip(self._gain * self._projected(plus, minus, both, some), -self.max_step, self.max_step)
            step = (steps[:, None] * Z).mean(axis=0)  # Malladi et al. 2023, algorithm 1: η g z
            self._x = self.space.clip(x - step)
        else:
            self._x = (x + self._learnt_at) / 2
        if both.any():
            self._learnt_at, self._halvings = x, max(self._halvings - 1, 0)
        else:
            self._halvings = min(self._halvings + 1, HALVINGS)

    def _projected(self, plus: np.ndarray, minus: np.ndarray, both: np.ndarray, some: np.ndarray) -> np.ndarray:
        """g (k,) of pairs with two finite losses, one or none, over its root mean square with `normalised`."""
        g = np.zeros(len(plus))
        g[both] = (plus[both] - minus[both]) / (2 * self._width)  # Malladi et al. 2023, definition 1
        if both.any():
            self._t += 1
            self._square = self.memory * self._square + (1 - self.memory) * float(np.mean(g[both] ** 2))
        size = np.sqrt(self._square / (1 - self.memory**self._t)) if self._t else 0.0  # Kingma & Ba, v̂
        one = some & ~both
        g[one] = np.where(np.isfinite(minus[one]), size, -size)
        return g / size if self.normalised and size > 0 else g

    def _recommend(self) -> np.ndarray:
        return self._x

    @property
    def _width(self) -> float:
        return self.width * 0.5**self._halvings

    @property
    def _gain(self) -> float:
        progress = min(1.0, self.evaluations_told / self.horizon) if self.decay else 0.0
        return self.gain * (1 - progress)
