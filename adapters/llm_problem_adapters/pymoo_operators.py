"""The genetic operators of this package as pymoo's: selection of the top k, crossover by cuts or gene by gene, Gaussian
mutation, to be put into pymoo's own algorithms.

    GA(pop_size=50, selection=TopSelection(10), crossover=CutCrossover(2), mutation=GaussianMutation(0.1))
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem_adapters import genetic_operators as operators
from llm_problem_adapters.feasibility import in_order
from llm_problem_adapters.options import integer, number

try:
    from pymoo.core.crossover import Crossover
    from pymoo.core.mutation import Mutation
    from pymoo.core.selection import Selection
except ImportError as error:
    raise ImportError("pymoo is needed for this: pip install pymoo") from error


class TopSelection(Selection):
    """Pairs of two different ones of the k best individuals, uniformly; infeasible ones come behind feasible ones.

    Args:
        k: at least 1; the whole population where that is smaller.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = integer("k", k, 1)

    def _do(
        self, problem: Any, pop: Any, n_select: int, n_parents: int, *args: Any, random_state: Any = None, **kwargs: Any
    ) -> np.ndarray:
        if n_parents != 2:
            raise ValueError(f"TopSelection selects pairs, {n_parents} parents were asked for")
        losses = in_order(pop.get("F")[:, 0], np.maximum(pop.get("CV")[:, 0], 0.0))
        best = operators.top_k(losses, min(self.k, len(pop)))
        return best[operators.random_pairs(len(best), n_select, random_state)]  # (n_select, 2)


class CutCrossover(Crossover):
    """Two children a pair, exchanging every second one of the segments between random cuts.

    Args:
        cuts: at least 1; 1 is single-point crossover.
        prob: in [0, 1], of a crossover at all.
    """

    def __init__(self, cuts: int = 1, prob: float = 1.0) -> None:
        super().__init__(2, 2, prob=prob)
        self.cuts = integer("cuts", cuts, 1)

    def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        parents, pairs = _pairs(X)
        return _children(operators.multi_point_crossover(parents, pairs, random_state, cuts=self.cuts))


class ExchangeCrossover(Crossover):
    """Two children a pair, exchanging each gene independently.

    Args:
        rate: in [0, 1], the probability that a gene is exchanged.
        prob: in [0, 1], of a crossover at all.
    """

    def __init__(self, rate: float = 0.5, prob: float = 1.0) -> None:
        super().__init__(2, 2, prob=prob)
        self.rate = number("rate", rate, 0, 1)

    def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        parents, pairs = _pairs(X)
        return _children(operators.uniform_crossover(parents, pairs, random_state, rate=self.rate))


class GaussianMutation(Mutation):
    """N(0, std²) added to genes, clipped to the box.

    Args:
        std: strength in the units of x, not negative; the sigma of a problem here is 1.
        probability: in [0, 1], of each gene by itself.
    """

    def __init__(self, std: float, probability: float = 1.0) -> None:
        super().__init__()
        self.std = number("std", std, 0)
        self.probability = number("probability", probability, 0, 1)

    def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
        X = operators.gaussian_mutation(X.astype(float), self.std, random_state, probability=self.probability)
        return X if problem.xl is None else np.clip(X, problem.xl, problem.xu)


def _pairs(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parents (2m, d) and pairs (m, 2) of pymoo's (2, m, d)."""
    m = X.shape[1]
    return np.concatenate(X).astype(float), np.stack([np.arange(m), m + np.arange(m)], axis=1)


def _children(children: np.ndarray) -> np.ndarray:
    """Pymoo's (2, m, d) of children (2m, d) in which two and two belong together."""
    return children.reshape(-1, 2, children.shape[1]).swapaxes(0, 1)
