"""Differential evolution (Storn and Price, 1997): rand/1/bin, best/1/bin and current-to-best/1/bin.

Sources: R. Storn, K. Price, *Differential evolution – a simple and efficient heuristic for global optimization over
continuous spaces*, J. Global Optimization 11, 1997 (the algorithm, and how strategies are named); K. Price, R. Storn,
J. Lampinen, *Differential Evolution: A Practical Approach to Global Optimization*, 2005 (the other strategies, and a
weight drawn anew, "dither"); J. Zhang, A. Sanderson, *JADE: adaptive differential evolution with
optional external archive*, IEEE TEC 13(5), 2009 (what happens at the bounds).

Symbols: n members of d coordinates, i the member a trial competes with, r₁ r₂ r₃ others.
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.options import choice, integer, number, positive

STRATEGIES = ("rand/1/bin", "best/1/bin", "current-to-best/1/bin")


class DifferentialEvolution(BaseOptimizer):
    """Each member against a trial made of the differences of others; the better one stays.

    A generation is one trial for each member, all made of the generation before. The first one is N(x0, sigma²), moved
    to the nearest value inside the bounds; with `start_at_x0` its first member is x0, which is not asked for again, so
    that generation has one point fewer.

    Args:
        population: n, at least 4.
        strategy: what a trial is made of: "rand/1/bin", "best/1/bin" or "current-to-best/1/bin".
        weight: F, of a difference, in (0, 2].
        dither: half the width of the interval about F that each trial draws its own weight from, 0 ≤ dither < F.
        crossover: CR in [0, 1], probability that a coordinate comes from the mutant; one always does.
        max_step: limit of a coordinate's difference from the vector it is added to, in units of sigma, positive; it
            keeps the members from running away where there are no bounds.

    Raises:
        ValueError: an option out of its range.
    """

    name = "differential-evolution"

    def __init__(
        self,
        *,
        # Measured by `experiments.defaults` (two tiny problems, 500 evaluations, 5 seeds): best/1/bin comes clearly
        # before the other two, a crossover of 0.5 before 0.2 and 0.9; a population of 10 is as good.
        population: int = 20,
        strategy: str = "best/1/bin",
        weight: float = 0.5,
        dither: float = 0.2,
        crossover: float = 0.5,
        max_step: float = 5.0,
    ) -> None:
        self.population = integer("population", population, 4)
        self.strategy = choice("strategy", strategy, STRATEGIES)
        self.weight = number("weight", weight, 0, 2, above=True)
        self.dither = number("dither", dither, 0, self.weight, below=True)
        self.crossover = number("crossover", crossover, 0, 1)
        self.max_step = positive("max_step", max_step)

    def _setup(self) -> None:
        n, d = self.population, self.space.dimension
        X = self.space.x0 + self.rng.standard_normal((n, d)) * self.space.sigma  # (n, d) ~ N(x0, sigma²)
        if self.start_at_x0:
            X[0] = self.space.x0
        self._X = self.space.clip(X)
        self._member_losses = np.full(n, np.inf)  # (n,) of the members
        self._started = False  # whether the first generation was told
        self._first_asked = 0  # x0 is not asked in the first generation

    def _tell_x0(self, loss: float) -> None:
        self._member_losses[0], self._first_asked = loss, 1

    def _ask(self) -> np.ndarray:
        return self._trials() if self._started else self._X[self._first_asked :].copy()

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        if not self._started:
            self._member_losses[self._first_asked :] = F
            self._started = True
            return
        better = self._member_losses >= F  # equals too, so that a plateau is crossed
        self._X[better], self._member_losses[better] = X[better], F[better]

    def _trials(self) -> np.ndarray:
        """(n, d), inside the bounds."""
        n, d = self._X.shape
        r = others(n, self.rng)  # (3, n)
        F = self.rng.uniform(self.weight - self.dither, self.weight + self.dither, (n, 1))  # ~ U[F ± dither)
        best = self._X[np.argmin(self._member_losses)]  # (d,)
        if self.strategy == "rand/1/bin":  # Storn & Price 1997
            base, step = self._X[r[0]], F * (self._X[r[1]] - self._X[r[2]])
        elif self.strategy == "best/1/bin":  # Price et al. 2005, as the next
            base, step = best, F * (self._X[r[1]] - self._X[r[2]])
        else:  # current-to-best/1/bin
            base, step = self._X, F * (best - self._X) + F * (self._X[r[1]] - self._X[r[2]])
        limit = self.max_step * self.space.sigma  # (d,)
        mutants = inside(base + np.clip(step, -limit, limit), self._X, self.space.lower, self.space.upper)  # (n, d)
        crossed = self.rng.random((n, d)) < self.crossover  # (n, d) ~ Bernoulli(CR)
        crossed[np.arange(n), self.rng.integers(d, size=n)] = True  # ~ U{0..d−1}
        return np.where(crossed, mutants, self._X)


def others(n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices (3, n): in column i three different ones of 0..n−1 without i, uniformly."""
    columns = [rng.permutation(n - 1)[:3] for _ in range(n)]  # of the n − 1 that are left without i
    picked = np.array(columns).T  # (3, n)
    return picked + (picked >= np.arange(n))


def inside(mutants: np.ndarray, members: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Mutants (n, d) where they are inside the bounds (d,); half-way from the member (n, d) to the bound where not."""
    mutants = np.where(mutants < lower, (lower + members) / 2, mutants)  # Zhang & Sanderson 2009
    return np.where(mutants > upper, (upper + members) / 2, mutants)
