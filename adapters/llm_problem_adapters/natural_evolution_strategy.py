"""Natural evolution strategies (Wierstra et al., 2008): separable (SNES) and exponential (xNES).

Sources: T. Schaul, T. Glasmachers, J. Schmidhuber, *High dimensions and heavy tails for natural evolution strategies*,
GECCO 2011 (SNES, linear in d); T. Glasmachers et al., *Exponential natural evolution strategies*, GECCO 2010 (xNES);
D. Wierstra et al., *Natural evolution strategies*, JMLR 15, 2014 (both, with the constants that are the defaults here);
D. Brockhoff et al., *Mirrored sampling and sequential selection for
evolution strategies*, PPSN 2010 (antithetic draws).

Symbols: λ draws z ~ N(0, I) a generation, x = μ + A z, u their utilities, η learning rates.
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.cma_optimizer import check_memory
from llm_problem_adapters.options import choice, integer, number, positive

COVARIANCES = ("diagonal", "full")

# What the distribution's width is multiplied by after a generation without a finite loss.
SHRINK = 0.5

# The narrowest that this makes it: still divided by.
LEAST = 1e-100


class NaturalEvolutionStrategy(BaseOptimizer):
    """A normal distribution that follows the natural gradient of the expected utility; its mean is recommended.

    x0 is the mean it starts from; the loss that `start_at_x0` brings is not used, since only draws are ranked.
    `batch_size` is λ where `population` is None; without it λ = 4 + ⌊3 ln d⌋. A draw outside the bounds is moved to the
    nearest value inside them, and counts as the z that would have led there. Equal losses share the utilities of the
    ranks that they take together, so that a plateau teaches nothing, and losses that are not finite are equal and last.
    A generation without a finite one ranks nothing: the next one is drawn from the same distribution with half the
    step, since the draws are what left the finite region about the mean.

    Args:
        covariance: "diagonal" (SNES: time and memory linear in d) or "full" (xNES: d² memory, d³ time a generation).
        population: λ, at least 2, or None.
        antithetic: draw z and −z, so that λ is even (one more where it would not be).
        step: standard deviation at the start, of a coordinate in units of sigma, positive.
        mean_rate: η of the mean, positive.
        step_rate: η of the standard deviations (and, with a full covariance, of its shape), positive; None is the
            papers' (3 + ln d)/(5√d), full (9 + 3 ln d)/(5d√d).
        max_step: the most that a standard deviation may grow to, in units of sigma, not below `step`.

    Raises:
        ValueError: an option out of its range.
        MemoryError: from `setup`, a full covariance that this machine's memory cannot hold.
    """

    name = "natural-evolution-strategy"

    def __init__(
        self,
        *,
        # Measured by `experiments.defaults` (two tiny problems, 500 evaluations, 5 seeds): a step of 1 before 0.3;
        # antithetic draws and a population of 30 change little.
        covariance: str = "diagonal",
        population: int | None = None,
        antithetic: bool = False,
        step: float = 1.0,
        mean_rate: float = 1.0,
        step_rate: float | None = None,
        max_step: float = 5.0,
    ) -> None:
        self.covariance = choice("covariance", covariance, COVARIANCES)
        self.population = None if population is None else integer("population", population, 2)
        self.antithetic = bool(antithetic)
        self.step = positive("step", step)
        self.mean_rate = positive("mean_rate", mean_rate)
        self.step_rate = None if step_rate is None else positive("step_rate", step_rate)
        self.max_step = number("max_step", max_step, self.step)

    def _setup(self) -> None:
        d = self.space.dimension
        if self.covariance == "full":
            check_memory(d, self.name, 'covariance="diagonal"')
        n = self.population or self.batch_size or 4 + int(3 * np.log(d))
        self._lambda = n + n % 2 if self.antithetic else max(n, 2)
        self._mu = self.space.x0.copy()  # (d,) mean
        # In units of sigma: "diagonal" standard deviations (d,); "full" A (d, d) with the covariance A Aᵀ.
        self._A = self.step * (np.eye(d) if self.covariance == "full" else np.ones(d))
        self._Z = np.empty((0, d))  # (λ, d) of the generation in hand

    def _ask(self) -> np.ndarray:
        rows = self._lambda // 2 if self.antithetic else self._lambda
        Z: np.ndarray = self.rng.standard_normal((rows, self.space.dimension))  # (rows, d) ~ N(0, I)
        if self.antithetic:
            Z = np.concatenate([Z, -Z])  # (λ, d)
        drawn = self._mu + self.space.sigma * (Z @ self._A.T if self.covariance == "full" else Z * self._A)
        X = self.space.clip(drawn)  # (λ, d)
        moved = (drawn != X).any(axis=1)
        Z[moved] = self._repaired(Z[moved], X[moved])
        self._Z = Z
        return X

    def _repaired(self, Z: np.ndarray, X: np.ndarray) -> np.ndarray:
        """The z (k, d) that lead to the points X (k, d), none longer than what was drawn."""
        Y = (X - self._mu) / self.space.sigma
        repaired = np.linalg.solve(self._A, Y.T).T if self.covariance == "full" else Y / self._A
        drawn = np.linalg.norm(Z, axis=1)
        return repaired * (drawn / np.maximum(drawn, np.linalg.norm(repaired, axis=1)))[:, None]

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        if not np.isfinite(F).any():
            self._A *= SHRINK if np.abs(self._A).max() > LEAST else 1.0
            return
        update = self._update_full if self.covariance == "full" else self._update_diagonal
        update(self._Z, utilities(F))

    def _update_diagonal(self, Z: np.ndarray, u: np.ndarray) -> None:
        d = self.space.dimension
        rate = (3 + np.log(d)) / (5 * np.sqrt(d)) if self.step_rate is None else self.step_rate
        self._move(self._A * (u @ Z))  # SNES: μ + η_μ σ ∇_μ J, ∇_μ J = Σ u z
        J = u @ (Z**2 - 1)  # (d,) ∇_σ J
        self._A = np.minimum(self._A * np.exp(rate / 2 * J), self.max_step)  # σ exp(η_σ/2 · ∇_σ J)

    def _update_full(self, Z: np.ndarray, u: np.ndarray) -> None:
        d = self.space.dimension
        rate = (9 + 3 * np.log(d)) / (5 * d * np.sqrt(d)) if self.step_rate is None else self.step_rate
        self._move(self._A @ (u @ Z))  # xNES, one rate for the size of A and its shape: μ + η_μ A ∇_δ J
        M = (Z * u[:, None]).T @ Z  # (d, d) ∇_M J = Σ u (z zᵀ − I), where Σ u = 0
        A = self._A @ exponential(rate / 2 * M)  # A exp(η/2 · ∇_M J)
        self._A = A * min(1.0, self.max_step / float(np.sqrt((A**2).sum(axis=1).max())))

    def _move(self, direction: np.ndarray) -> None:
        self._mu = self.space.clip(self._mu + self.mean_rate * self.space.sigma * direction)

    def _recommend(self) -> np.ndarray:
        return self._mu


def utilities(losses: np.ndarray) -> np.ndarray:
    """Utilities (λ,) of losses (λ,), the best highest, their sum 0; equal losses share those of their ranks."""
    n = len(losses)
    u = np.maximum(0, np.log(n / 2 + 1) - np.log(np.arange(1, n + 1)))  # Wierstra et al. 2014
    u = u / u.sum() - 1 / n
    _, group, counts = np.unique(losses, return_inverse=True, return_counts=True)  # groups of equals, the best first
    ends = np.cumsum(counts)
    shared = np.array([u[end - count : end].mean() for end, count in zip(ends, counts, strict=True)])
    return shared[group]


def exponential(M: np.ndarray) -> np.ndarray:
    """exp(M) of a symmetric matrix (d, d)."""
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    return (vectors * np.exp(values)) @ vectors.T
