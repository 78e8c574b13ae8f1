"""Two of pymoo's algorithms with their seed passed on where pymoo 0.6.2 forgets to, so that a run repeats.

Imported by `pymoo_optimizer` when one of them is used; importing it imports pymoo.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import RankAndCrowdingSurvival
from pymoo.algorithms.soo.nonconvex import direct, pattern
from pymoo.core.population import Population
from pymoo.core.replacement import is_better


class PatternSearch(pattern.PatternSearch):
    """Hooke and Jeeves' pattern search; the order of the coordinates is drawn from the algorithm's generator.

    pymoo draws it from a fresh generator at every exploration. Otherwise the step is pymoo's.
    """

    _center: Any
    _explr: Any

    def _next(self) -> Generator[Any, Any, None]:
        if is_better(self._explr, self._center):
            # A pattern move: once more in the direction that improved, and explore around there.
            self._direction = self._explr.X - self._center.X
            self._center = self._explr
            move = pattern.pattern_move(self.problem, self._center, self._direction, self.step_size)
            self._trial = start = yield move
            self._sign = pattern.calc_sign(self._direction)
        else:
            self.n_not_improved += 1
            self._rho = self.init_rho**self.n_not_improved
            start = self._center
        self._explr = yield from pattern.exploration_move(
            self.problem, start, self._sign, self._delta, self._rho, random_state=self.random_state
        )
        self.pop = Population.create(self._center, self._explr)


class DIRECT(direct.DIRECT):
    """Dividing rectangles; ties among too many candidates are broken with the algorithm's generator.

    pymoo breaks them with a fresh generator each time.
    """

    n_max_candidates: Any

    def _potential_optimal(self) -> Population:
        limit, self.n_max_candidates = self.n_max_candidates, np.inf
        try:
            candidates = super()._potential_optimal()
        finally:
            self.n_max_candidates = limit
        if len(candidates) > limit:
            candidates = RankAndCrowdingSurvival().do(
                self.problem, self.pop, n_survive=limit, algorithm=self, random_state=self.random_state
            )
        return candidates
