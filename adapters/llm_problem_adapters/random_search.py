"""Random search (Brooks, 1958): independent draws about the start, the best of them kept.

Source: S. Brooks, *A discussion of random methods for seeking maxima*, Operations Research 6(2), 1958. The
baseline that every other algorithm has to beat.
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import BaseOptimizer


class RandomSearch(BaseOptimizer):
    """x ~ N(x0, sigma²) per coordinate, moved to the nearest value inside the bounds.

    No options and no state: the k-th point of a seed is the same for every `batch_size` (the generation's
    size, 1 by default) and every horizon.
    """

    name = "random-search"

    def _ask(self) -> np.ndarray:
        X = self.rng.standard_normal((self.batch_size or 1, self.space.dimension))  # (k, d) ~ N(0, I)
        X *= self.space.sigma
        X += self.space.x0
        return np.clip(X, self.space.lower, self.space.upper, out=X)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        pass  # the base keeps the best point told, and nothing else is learnt
