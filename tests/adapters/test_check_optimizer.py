"""The shipped check of optimizers: what is registered passes, and what breaks the protocol is told how."""

import functools

import numpy as np
import pytest

from llm_problem.testing import BrokenPromiseError, check_optimizer
from llm_problem_adapters import list_optimizers, make_optimizer

BLACK_BOX = [name for name in list_optimizers(gradients=False) if ":" not in name]
PYMOO = ["pymoo:DE", "pymoo:PSO", "pymoo:CMAES", "pymoo:GA", "pymoo:NelderMead"]
OPTUNA = [name for name in list_optimizers("optuna:*") if name != "optuna:GPSampler"]  # which passes too, in 11 s
NEVERGRAD = [f"nevergrad:{name}" for name in ("OnePlusOne", "NoisyOnePlusOne", "TwoPointsDE", "PSO", "CMA", "SPSA")]


@pytest.mark.parametrize("name", [*BLACK_BOX, *PYMOO, *OPTUNA, *NEVERGRAD])
def test_optimizers_keep_the_protocol(name):
    assert name in list_optimizers(name)
    check_optimizer(functools.partial(make_optimizer, name), seeded=name != "pymoo:NelderMead")  # which draws nothing


class Given:
    """An optimizer that is given the gradients of the check's quadratic where it wants them, as `minimize` does."""

    def __init__(self, name, **settings):
        self._optimizer = make_optimizer(name, **settings)

    def __getattr__(self, name):
        return getattr(self._optimizer, name)

    def tell(self, X, F, G=None):
        given = {"gradients": 2 * (X - 1)} if self._optimizer.wants_gradients else {}
        self._optimizer.tell(X, F, G, **given)


@pytest.mark.parametrize("name", ["adam", "hybrid"])
def test_with_gradients_they_keep_the_protocol_too(name):
    """But for parts: whether a gradient fits in decides what is asked; and Adam draws nothing."""
    check_optimizer(functools.partial(Given, name), seeded=name == "hybrid", whole=False)


class Own:
    """A small random search as somebody else would write it."""

    stop_reason = None

    def __init__(self, *, dimension, x0, bounds, sigma, horizon, batch_size, seed, start_at_x0):
        self.rng, self.dimension, self.sigma = np.random.default_rng(seed), dimension, sigma
        self.best, self.loss, self.first = np.full(dimension, x0), np.inf, start_at_x0

    def ask(self, max_n):
        if self.first:
            self.first = False
            return self.best[None].copy()
        return self.best + self.sigma * self.rng.standard_normal((1, self.dimension))

    def tell(self, X, F, G=None):
        F = np.where(np.isfinite(F), F, np.inf)
        if F.min() < self.loss:
            self.best, self.loss = X[F.argmin()].copy(), F.min()

    def recommend(self):
        return self.best


class ThreeAtOnce(Own):
    promise = r"ask\(1\) gives from 1 to 1 points"

    def ask(self, max_n):
        return np.zeros((3, self.dimension)) if max_n < 3 else super().ask(max_n)


class Flat(Own):
    promise = r"ask gives an array \(k, 4\) of float64"

    def ask(self, max_n):
        return super().ask(max_n)[0]


class Elsewhere(Own):
    promise = "the first point is x0"

    def ask(self, max_n):
        return super().ask(max_n) + 1


class GlobalGenerator(Own):
    promise = "the same seed gives the same trajectory"

    def ask(self, max_n):
        return super().ask(max_n) if self.first else np.random.standard_normal((1, self.dimension))  # noqa: NPY002


class SeedIgnored(Own):
    promise = "another seed gives another trajectory"

    def __init__(self, **settings):
        super().__init__(**{**settings, "seed": 0})


class Cutting(Own):
    """Takes another draw for each ask, so that a generation in parts is another generation."""

    promise = "a generation handed out in parts gives the same trajectory"

    def ask(self, max_n):
        if self.first:
            return super().ask(max_n)
        steps = self.rng.standard_normal((5, self.dimension))[:max_n]
        return self.best + self.sigma * steps


class TakesTheWorst(Own):
    promise = "points with losses such as nan are not recommended"

    def tell(self, X, F, G=None):
        super().tell(X, np.where(np.isfinite(F), F, -1e9))


class RecommendsNothing(Own):
    promise = "gives a finite point"

    def recommend(self):
        return np.full(self.dimension, np.nan)


class Raising(Own):
    promise = "tell takes losses such as nan: it raised ValueError: NaN"

    def tell(self, X, F, G=None):
        if np.isnan(F).any():
            raise ValueError("NaN")
        super().tell(X, F)


class NoRecommend(Own):
    promise = "has ask, tell, recommend and stop_reason"
    recommend = property()


def test_an_optimizer_of_ones_own_passes():
    check_optimizer(Own)


class AsksAgain(Own):
    """Evaluates its best point a second time, as one for noisy losses does."""

    again = False

    def ask(self, max_n):
        self.again = not self.again
        return self.best[None].copy() if not self.again else super().ask(max_n)


def test_a_point_that_is_asked_for_again_has_the_loss_that_it_had():
    check_optimizer(AsksAgain)


BROKEN = [
    ThreeAtOnce,
    Flat,
    Elsewhere,
    GlobalGenerator,
    SeedIgnored,
    Cutting,
    TakesTheWorst,
    RecommendsNothing,
    Raising,
    NoRecommend,
]


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_promise_is_named(cls):
    with pytest.raises(BrokenPromiseError, match=cls.promise):
        check_optimizer(cls)


def test_what_is_not_asked_for_is_not_checked():
    check_optimizer(Cutting, whole=False)
    check_optimizer(SeedIgnored, seeded=False)
    check_optimizer(Raising, non_finite=False)
