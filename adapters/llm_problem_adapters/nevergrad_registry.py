"""Optimizers of this package in Nevergrad's registry, for scripts and benchmarks that take optimizers by name there.

from llm_problem_adapters import register_with_nevergrad
import nevergrad as ng

register_with_nevergrad()
ng.optimizers.registry["LPGeneticAlgorithm"](parametrization, budget=500).minimize(f)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_problem_adapters.base import HORIZON, BaseOptimizer
from llm_problem_adapters.registry import configure, own_optimizers

try:
    import nevergrad as ng
    from nevergrad.optimization.base import ConfiguredOptimizer, Optimizer
except ImportError as error:
    raise ImportError("Nevergrad is needed for this: pip install nevergrad") from error

PREFIX = "LP"
CLIPPED = 5e20  # what Nevergrad tells for NaN, infinity and whatever is larger


class AskTellOptimizer(Optimizer):
    """One of this package's optimizers behind Nevergrad's ask and tell.

    It searches Nevergrad's standardised space, in which the parametrization's value is 0 and its sigma 1, inside the
    bounds where the value is an affine map of that space (an `Array` or `Scalar`, bounded or not), else without bounds:
    Nevergrad maps whatever it is asked into them. With `start_at_x0` the first point is the parametrization's value.
    The best suggestion that was told before anything was asked takes its place, and is not evaluated again.

    Generations are handed out one point at a time and may be told in any order. While the rest of a generation is being
    evaluated, and after the algorithm's own end, points N(0, I) of the standardised space are handed out instead, which
    are remembered as points seen and change nothing else; so are points that were not asked for.

    Where the parametrization's `random_state` was seeded by an integer and nothing was drawn from it, that integer is
    the seed, and the trajectory that of `minimize(problem, name, seed=…)`; else a seed is drawn from it at the first
    ask.

    Args:
        parametrization: of Nevergrad, or a number of dimensions.
        budget: evaluations that the algorithm plans for; None is `HORIZON`.
        num_workers: points that are asked for before one is told; the batch size of algorithms without generations.
        algorithm: a name as for `make_optimizer`.
        options: of that algorithm.
        start_at_x0: whether the parametrization's value is evaluation one, as for `make_optimizer`.

    Raises:
        TypeError, ValueError: as for `make_optimizer`.
    """

    def __init__(
        self,
        parametrization: Any,
        budget: int | None = None,
        num_workers: int = 1,
        *,
        algorithm: str = "genetic-algorithm",
        options: Mapping[str, Any] | None = None,
        start_at_x0: bool = True,
    ) -> None:
        super().__init__(parametrization, budget=budget, num_workers=num_workers)
        self._start_at_x0 = start_at_x0
        self._penalize_cheap_violations = True  # a point that Nevergrad throws away is told as infinite
        self._ours: BaseOptimizer = configure(algorithm, **(options or {}))
        self._waiting: deque[int] = deque()  # places of the generation that are still to be handed out
        self._places: dict[str, int] = {}  # uid → place of a point that is being evaluated
        self._X, self._F = np.empty((0, self.dimension)), np.empty(0)
        self._best_beside: tuple[float, np.ndarray | None] = (np.inf, None)  # of points that were not asked for

    def _internal_ask_candidate(self) -> Any:
        if not self._ours.is_set_up:
            self._start()
        if not self._waiting and not self._places and self._ours.stop_reason is None:
            self._X = self._ours.ask(10**9)
            self._F = np.full(len(self._X), np.nan)
            self._waiting.extend(range(len(self._X)))
        child = self.parametrization.spawn_child()
        if not self._waiting:
            if self._ours.stop_reason is not None:
                self._warn(
                    f"{self.name} has come to its own end ({self._ours.stop_reason}): random points from here on",
                    ng.errors.FinishedUnderlyingOptimizerWarning,
                )
            space = self._ours.space
            return child.set_standardized_data(space.clip(self._rng.standard_normal(self.dimension)))
        place = self._waiting.popleft()
        self._places[child.uid] = place
        return child.set_standardized_data(self._X[place])

    def _internal_tell_candidate(self, candidate: Any, loss: float) -> None:
        place = self._places.pop(candidate.uid, None)
        loss = loss if loss < CLIPPED else np.inf
        if place is None:
            if loss < self._best_beside[0]:
                data = candidate.get_standardized_data(reference=self.parametrization)
                self._best_beside = (loss, data)
            return
        self._F[place] = loss
        if not self._waiting and not self._places:
            self._ours.tell(self._X, self._F)

    def _internal_provide_recommendation(self) -> Any:
        """A point of the standardised space, or None for the best point that Nevergrad was told."""
        ours = self._ours
        pending = np.where(np.isnan(self._F), np.inf, self._F)  # of the generation in hand, told in part
        told = np.append(pending, ours.best_loss if ours.is_set_up else np.inf)
        if not np.isfinite(told).any() or self._best_beside[0] < told.min():
            return None
        x = ours.recommend()
        if np.array_equal(x, ours.best_x) and pending.size and pending.min() < ours.best_loss:
            return self._X[pending.argmin()]
        return x

    def _start(self) -> None:
        loss, start = self._best_beside
        lower, upper = standardised_bounds(self.parametrization)
        x0 = np.zeros(self.dimension) if start is None else np.clip(start, lower, upper)
        self._ours.setup(
            dimension=self.dimension,
            x0=x0,
            bounds=(lower, upper),
            sigma=1.0,
            horizon=HORIZON if self.budget is None else self.budget,
            batch_size=self.num_workers if self.num_workers > 1 else None,
            seed=seed_of(self._rng),
            start_at_x0=self._start_at_x0 or start is not None,
        )
        if start is not None:  # a suggestion whose loss is known is not evaluated again
            first = self._ours.ask(1)
            self._ours.tell(first, np.array([loss]))


class ParametrizedAskTell(ConfiguredOptimizer):
    """A family of Nevergrad optimizers: `ParametrizedAskTell(algorithm="particle-swarm")(parametrization, budget)`.

    Args:
        algorithm: a name as for `make_optimizer`.
        options: of that algorithm.
        start_at_x0: whether the parametrization's value is evaluation one.
    """

    def __init__(
        self,
        *,
        algorithm: str = "genetic-algorithm",
        options: Mapping[str, Any] | None = None,
        start_at_x0: bool = True,
    ) -> None:
        super().__init__(AskTellOptimizer, {"algorithm": algorithm, "options": options, "start_at_x0": start_at_x0})


def register_with_nevergrad() -> list[str]:
    """Put this package's gradient-free optimizers into `ng.optimizers.registry`; again is the same as once.

    Returns:
        The names under which they stand there, "LPGeneticAlgorithm" for "genetic-algorithm", sorted.
    """
    names = []
    for own in own_optimizers(gradients=False):
        name = nevergrad_name(own)
        if name not in ng.optimizers.registry:
            ParametrizedAskTell(algorithm=own).set_name(name, register=True)
        names.append(name)
    return sorted(names)


def nevergrad_name(own: str) -> str:
    """The name in Nevergrad's registry of an optimizer of this package."""
    return PREFIX + "".join(part[0].upper() + part[1:] for part in own.split("-"))


def seed_of(random_state: np.random.RandomState) -> int:
    """The integer that seeded a generator from which nothing was drawn yet, else one drawn from it."""
    _, key, position, has_gauss, _ = random_state.get_state(legacy=True)
    seed = int(key[0])  # numpy's initialisation by an integer leaves it there
    _, fresh, start, *_ = np.random.RandomState(seed).get_state(legacy=True)
    if position == start and not has_gauss and np.array_equal(key, fresh):
        return seed
    return int(random_state.randint(2**32, dtype=np.uint32))


def standardised_bounds(parametrization: Any) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper), each (d,), in Nevergrad's standardised space; infinite where that is no affine map of values."""
    d = parametrization.dimension
    lower, upper = np.full(d, -np.inf), np.full(d, np.inf)
    if not isinstance(parametrization, ng.p.Data):
        return lower, upper
    value = np.asarray(parametrization.value, dtype=float).reshape(-1)
    sigma = np.broadcast_to(np.asarray(parametrization.sigma.value, dtype=float).reshape(-1), (d,))
    given = [None if bound is None else np.broadcast_to(bound, (d,)) for bound in parametrization.bounds]
    if given[0] is not None:
        lower = (given[0] - value) / sigma
    if given[1] is not None:
        upper = (given[1] - value) / sigma
    # Casting to integers, exponents and smooth bounds are told by what they make of a point inside.
    inside = np.clip(np.linspace(-0.4, 0.3, d), lower / 2, upper / 2)
    child = parametrization.spawn_child().set_standardized_data(inside)
    if not np.allclose(np.asarray(child.value, dtype=float).reshape(-1), value + sigma * inside):
        return np.full(d, -np.inf), np.full(d, np.inf)
    return lower, upper
