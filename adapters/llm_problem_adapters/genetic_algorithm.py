"""Genetic algorithm (Holland, 1975) over real vectors: P(t+1) = Select(Mutate(Crossover(P(t)))).

Source: J. Holland, *Adaptation in Natural and Artificial Systems*; the operators' sources stand in
`genetic_operators`. `GeneticAlgorithm.document` is our reading of the algorithm that an article on the
gradient-free optimisation of language models describes.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from llm_problem_adapters import genetic_operators as operators
from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.options import choice, integer, number

CROSSOVERS = ("single-point", "multi-point", "uniform")


class GeneticAlgorithm(BaseOptimizer):
    """Generations of `population` individuals, each bred from the `selected` best of the one before.

    Population and selection default to the document's, 50 and 10; `document` is the whole of its algorithm. Its
    100 generations are no option here, because they follow from the budget: horizon = generations × population,
    there 5,000; less than some 20 generations want a smaller population. An elite is a member of each later
    generation, and x0 of the first one where it is evaluated; neither is evaluated again, so those generations
    ask for fewer new points than `population`.

    Args:
        population: n, individuals in a generation, at least 2.
        selected: k, parents of the next one, 1 ≤ k ≤ n.
        crossover: "single-point", "multi-point" or "uniform".
        cuts: cut points of the multi-point crossover, at least 1.
        exchange_rate: probability in [0, 1] that uniform crossover exchanges a gene.
        mutation: standard deviation of the Gaussian mutation at the start, not negative; in units of sigma,
            or of x itself with `raw`; at 0 there is none to the end.
        final_mutation: the same at the end of the horizon, reached geometrically; None keeps `mutation`.
        mutation_probability: probability in [0, 1] that a gene is mutated.
        elitism: best individuals carried over without another evaluation, 0 ≤ elitism < n.
        initial: standard deviation of the first generation about its centre, not negative, in the units
            of `mutation`.
        raw: whether lengths are in units of x itself and the first generation's centre is `−theta0` (zero
            where there is none); otherwise they are in units of sigma and the centre is x0.
        theta0: (d,) the pretrained parameters where x = θ − θ0 is the raw full vector; only with `raw`.
        with_x0: whether x0, where it is evaluated first, is a member of the first generation.
        answer: what is recommended, "best" point told or the best of the "last-generation" completed.

    Raises:
        ValueError: an option out of its range, or, from `setup`, a theta0 of another dimension or one that
            the bounds exclude.
    """

    name = "genetic-algorithm"

    def __init__(
        self,
        *,
        # Population and selection are the document's. On quadratics, Rastrigin and logistic losses (d = 8–256,
        # 300–2,000 evaluations) uniform crossover came before cuts (genes are in no order), and a mutation that
        # shrinks tenfold before each constant one from 0.1 to 0.5; where budgets are short, 20/4 before 50/10.
        population: int = 50,
        selected: int = 10,
        crossover: str = "uniform",
        cuts: int = 2,
        exchange_rate: float = 0.5,
        mutation: float = 0.5,
        final_mutation: float | None = 0.05,
        mutation_probability: float = 1.0,
        elitism: int = 1,
        initial: float = 1.0,
        raw: bool = False,
        theta0: Any = None,
        with_x0: bool = True,
        answer: str = "best",
    ) -> None:
        self.population = integer("population", population, 2)
        self.selected = integer("selected", selected, 1, self.population)
        self.crossover = choice("crossover", crossover, CROSSOVERS)
        self.cuts = integer("cuts", cuts, 1)
        self.exchange_rate = number("exchange_rate", exchange_rate, 0, 1)
        self.mutation = number("mutation", mutation, 0)
        self.final_mutation = self.mutation if final_mutation is None else number("final_mutation", final_mutation, 0)
        self.mutation_probability = number("mutation_probability", mutation_probability, 0, 1)
        self.elitism = integer("elitism", elitism, 0, self.population - 1)
        self.initial = number("initial", initial, 0)
        self.raw = bool(raw)
        self.theta0 = None if theta0 is None else np.asarray(theta0, dtype=np.float64)
        self.with_x0 = bool(with_x0)
        self.answer = choice("answer", answer, ("best", "last-generation"))
        if theta0 is not None and not raw:
            raise ValueError("theta0 is the raw full vector's, so it needs raw=True")

    @classmethod
    def document(
        cls,
        *,
        population: int = 50,
        selected: int = 10,
        crossover: str = "single-point",
        cuts: int = 2,
        mutation_probability: float = 1.0,
        theta0: Any = None,
    ) -> Self:
        """The algorithm as the article has it, configured and not yet set up.

        On the raw full vector individuals are drawn from N(0, I) themselves (x = θ − θ0; give θ0 as
        `theta0`), mutation is 0.01 raw, no elitism; on a subspace the same operators in the calibrated x (no
        `theta0`). An individual is clipped to the bounds only where the space has them. The article describes
        P(t+1) = Select(Mutate(Crossover(P(t)))) with θ_i ~ N(0, I), fitness = −loss, the top k selected,
        single-point crossover and Gaussian mutation N(0, 0.01²), over 100 generations of 50, 10 selected.

        The article's own search, with x = θ − θ0 in the model's own units (scale 1.0; the full vector's default
        unit is much smaller, and puts θ = 0 far outside the bounds):

        >>> problem = lp.Problem("tiny-gpt2", task, lp.subspaces.FullVector(scale=1.0))
        >>> result = minimize(problem, GeneticAlgorithm.document(theta0=problem.subspace.theta0()), budget=5001)

        This is our reading of that description, since its printed code cannot run and picks the result by
        fitnesses of the generation before. The repairs:

        1. Its individuals are state dicts, while its operators need vectors: here they are flat vectors x = θ
           − θ0.
        2. It computes fitnesses, replaces the population, and then takes the individual of the *new*
           population where the *old* fitnesses are highest: here the recommended point is the best of the
           last evaluated generation by its own loss.
        3. Children are made from random pairs of different selected parents, two a pair, until the population
           is full; where its size is odd the last pair gives one child only.
        4. Its fitness is −loss and maximised: here losses are minimised, which is the same order.
        5. Pairs of parents are drawn with replacement: the same two may meet again.
        6. x0, where it is evaluated first (`start_at_x0`), is one evaluation more, 5,001 for 100 generations. It
           is no member of P(0), and is recommended only as long as no generation is complete and nothing better
           was seen.
        7. A generation that the budget cuts short is neither selected from nor recommended from.
        """
        return cls(
            population=population,
            selected=selected,
            crossover=crossover,
            cuts=cuts,
            mutation=0.01,
            final_mutation=0.01,
            mutation_probability=mutation_probability,
            elitism=0,
            initial=1.0,
            raw=True,
            theta0=theta0,
            with_x0=False,
            answer="last-generation",
        )

    def _setup(self) -> None:
        d = self.space.dimension
        if self.theta0 is not None and self.theta0.shape != (d,):
            raise ValueError(f"theta0 must have shape ({d},), got {self.theta0.shape}")
        if self.theta0 is not None and not np.array_equal(self.space.clip(-self.theta0), -self.theta0):
            raise ValueError(
                f"theta0 (up to {np.abs(self.theta0).max():.3g}) lies outside the bounds, so that individuals "
                "θ ~ N(0, I) would sit on them: the raw full vector is FullVector(scale=1.0)"
            )
        self._unit: float | np.ndarray = 1.0 if self.raw else self.space.sigma
        self._parents: np.ndarray | None = None  # (selected, d), best first
        self._carried: np.ndarray = np.empty((0, d))  # members of the coming generation that are evaluated already
        self._carried_losses: np.ndarray = np.empty(0)
        self._last_best, self._last_loss = self.space.x0, np.inf  # of the last generation

    def _tell_x0(self, loss: float) -> None:
        if self.with_x0:
            self._carried, self._carried_losses = self.space.x0[None, :], np.array([loss])

    def _ask(self) -> np.ndarray:
        n = self.population - len(self._carried)
        X = self._first_generation(n) if self._parents is None else self._children(self._parents, n)  # (n, d)
        return np.clip(X, self.space.lower, self.space.upper, out=X)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        losses = np.concatenate([self._carried_losses, F])  # (population,)
        best = operators.top_k(losses, max(self.selected, self.elitism))  # Select
        carried = len(self._carried)
        rows = np.stack([self._carried[i] if i < carried else X[i - carried] for i in best])  # (len(best), d)
        self._parents = rows[: self.selected]
        self._carried, self._carried_losses = rows[: self.elitism], losses[best[: self.elitism]]
        self._last_best, self._last_loss = rows[0], float(losses[best[0]])

    def _recommend(self) -> np.ndarray:
        if self.answer == "best" or not np.isfinite(self._last_loss):
            return self.best_x
        return self._last_best

    def _first_generation(self, n: int) -> np.ndarray:
        X: np.ndarray = self.rng.standard_normal((n, self.space.dimension))  # (n, d) ~ N(0, I)
        X *= self.initial * self._unit
        if not self.raw:
            X += self.space.x0
        elif self.theta0 is not None:
            X -= self.theta0  # θ ~ N(0, I) is x = θ − θ0 ~ N(−θ0, I)
        return X

    def _children(self, parents: np.ndarray, n: int) -> np.ndarray:
        pairs = operators.random_pairs(len(parents), (n + 1) // 2, self.rng)  # (⌈n/2⌉, 2)
        children = self._crossed(parents, pairs)[:n]  # (n, d): an odd n drops the last pair's second child
        std = self._mutation_std() * self._unit
        return operators.gaussian_mutation(children, std, self.rng, probability=self.mutation_probability, out=children)

    def _crossed(self, parents: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Children (2m, d) of parents (k, d), two for each of the pairs (m, 2)."""
        if self.crossover == "uniform":
            return operators.uniform_crossover(parents, pairs, self.rng, rate=self.exchange_rate)
        cuts = 1 if self.crossover == "single-point" else self.cuts
        return operators.multi_point_crossover(parents, pairs, self.rng, cuts=cuts)

    def _mutation_std(self) -> float:
        """The strength now, from `mutation` at no evaluation to `final_mutation` at the horizon."""
        if self.mutation == 0:
            return 0.0
        progress = min(1.0, self.evaluations_told / self.horizon)
        return self.mutation * (self.final_mutation / self.mutation) ** progress
