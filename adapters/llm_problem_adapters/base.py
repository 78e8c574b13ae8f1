"""What every optimizer here shares: the public ask/tell keeps the books, the private `_ask`/`_tell` does the maths.

An optimizer is configured by its constructor (`GeneticAlgorithm(population=30)`) and started on a problem by
`setup`, as pymoo's algorithms are. `minimize` and `make_optimizer` call `setup` for you.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llm_problem_adapters.feasibility import in_order, violations

# Told to an optimizer of another library for a loss that is not finite, where the problem has no `penalty` of its own.
PENALTY = 1e9

# Evaluations that an optimizer plans for in a library that does not say how many there will be.
HORIZON = 1000

# Told to one for a finite loss above it: Nevergrad clips from 5e20 on, with a warning.
LARGEST = 1e20

# An unbounded coordinate is searched in x0 ± this many sigmas by algorithms of other libraries that want a box.
UNBOUNDED_SIGMAS = 10.0


@dataclass(frozen=True)
class SearchSpace:
    """Where an optimizer searches: d dimensions, a start, a box and a scale."""

    x0: np.ndarray  # (d,) start; zero is the pretrained model
    lower: np.ndarray  # (d,) bounds, −inf where there is none
    upper: np.ndarray  # (d,)
    sigma: np.ndarray  # (d,) standard deviation of a typical step

    @property
    def dimension(self) -> int:
        return self.x0.size

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite(self.lower).all() and np.isfinite(self.upper).all())

    def clip(self, X: np.ndarray) -> np.ndarray:
        """X with every coordinate moved to the nearest value inside the bounds; same shape."""
        return np.clip(X, self.lower, self.upper)

    @classmethod
    def build(cls, dimension: int, x0: Any, bounds: Any, sigma: Any) -> SearchSpace:
        """Check and broadcast what a caller gave.

        Raises:
            ValueError: a shape that does not fit the dimension, crossed bounds, x0 outside, sigma not positive.
        """
        if not isinstance(dimension, (int, np.integer)) or dimension < 1:
            raise ValueError(f"dimension must be an integer of at least 1, got {dimension!r}")
        start = _vector("x0", np.zeros(dimension) if x0 is None else x0, dimension)
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        lower, upper = _vector("the lower bound", low, dimension), _vector("the upper bound", high, dimension)
        scale = _vector("sigma", sigma, dimension)
        if not np.isfinite(start).all():
            raise ValueError("x0 must be finite")
        if not (lower < upper).all():
            raise ValueError("each lower bound must be below its upper bound")
        if not ((lower <= start) & (start <= upper)).all():
            raise ValueError("x0 must lie inside the bounds")
        if not ((scale > 0) & np.isfinite(scale)).all():
            raise ValueError("sigma must be positive and finite")
        return cls(start, lower, upper, scale)


def finite_box(space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """(lower, upper), each (d,): the bounds, and x0 ± `UNBOUNDED_SIGMAS`·sigma where there is none."""
    reach = UNBOUNDED_SIGMAS * space.sigma
    lower = np.where(np.isfinite(space.lower), space.lower, space.x0 - reach)
    upper = np.where(np.isfinite(space.upper), space.upper, space.x0 + reach)
    return lower, upper


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_integer(value) or isinstance(value, (float, np.floating))


def _vector(name: str, value: Any, dimension: int) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 1 or (array.ndim == 1 and array.shape != (dimension,)):
        raise ValueError(f"{name} must be a number or have shape ({dimension},), got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError(f"{name} must not contain NaN")
    return np.broadcast_to(array, (dimension,)).copy()


class BaseOptimizer:
    """Books for an ask/tell algorithm: generations handed out in parts, x0 first, best point told.

    Where there are constraints, points are ordered by Deb's rules (see `feasibility`): the best point told is the best
    feasible one, and `_tell` gets losses in that order, so that an algorithm which only compares losses needs to know
    nothing of constraints. One that has a way of its own says so by `handles_constraints`.

    A subclass sets its options in `__init__` and implements `_setup`, `_ask` and `_tell`, and `_recommend` where
    that is not the best point told. `self.space`, `self.rng`, `self.horizon` and `self.batch_size` are there from
    `_setup` on.
    """

    name = ""
    penalty = PENALTY
    """Stands for a loss that is not finite where an algorithm of another library is told; `minimize` sets it to the
    problem's before it asks."""
    handles_constraints = False
    """Whether `_tell` gets the losses as they are, and takes the constraint values of the generation from `self.G`."""

    space: SearchSpace
    rng: np.random.Generator
    horizon: int
    batch_size: int | None
    G: np.ndarray | None
    """(k, c) constraint values of the generation that is being told, feasible where ≤ 0; None without constraints."""

    def setup(
        self,
        *,
        dimension: int,
        x0: Any = None,
        bounds: Any = None,
        sigma: Any = 1.0,
        horizon: int,
        batch_size: int | None = None,
        seed: int = 0,
        start_at_x0: bool = True,
    ) -> Self:
        """Start (or start again) on a problem.

        Args:
            dimension: d.
            x0: start, a number or (d,); None is zero, the pretrained model.
            bounds: (lower, upper), each a number or (d,); None is unbounded.
            sigma: standard deviation of a typical step, a number or (d,).
            horizon: number of evaluations the algorithm plans for; what stops the run is the driver's matter.
            batch_size: points proposed before any is told, for algorithms that have no generation of their own.
            seed: a non-negative integer; every random number follows from it.
            start_at_x0: whether x0 is evaluation one.

        Raises:
            ValueError: an argument out of its range.
        """
        if not is_integer(horizon) or horizon < 1:
            raise ValueError(f"horizon must be an integer of at least 1, got {horizon!r}")
        if batch_size is not None and (not is_integer(batch_size) or batch_size < 1):
            raise ValueError(f"batch_size must be an integer of at least 1, or None, got {batch_size!r}")
        if not is_integer(seed) or seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
        self.space = SearchSpace.build(dimension, x0, bounds, sigma)
        self.horizon, self.seed = int(horizon), int(seed)
        self.batch_size = None if batch_size is None else int(batch_size)
        self.start_at_x0 = bool(start_at_x0)
        self.rng = np.random.default_rng(seed)
        self.stop_reason: str | None = None
        self.evaluations_told = 0
        self.best_x, self.best_loss = self.space.x0.copy(), np.inf
        self._best_order = np.inf  # its place in the order of the rules
        self.G = None
        self._constraints: list[np.ndarray] = []  # of the parts of the generation that were told
        self._generation: np.ndarray | None = None  # (k, d) being handed out
        self._losses: list[np.ndarray] = []  # of the parts of it that were told
        self._handed_out = 0
        self._in_hand: np.ndarray | None = None  # the part asked for and not yet told
        self._x0_pending = self.start_at_x0
        self._worst = -np.inf  # finite loss that `_finite` has seen
        self._setup()
        return self

    @property
    def is_set_up(self) -> bool:
        return hasattr(self, "space")

    def ask(self, max_n: int) -> np.ndarray:
        """The next points, (k, d) with 1 ≤ k ≤ max_n; see `llm_problem.optimizer.Optimizer`.

        Raises:
            RuntimeError: before `setup`, before the last points were told, or once `stop_reason` is set.
        """
        self._require_set_up()
        if max_n < 1:
            raise ValueError(f"max_n must be at least 1, got {max_n!r}")
        if self.stop_reason is not None:
            raise RuntimeError(f"{self.name or type(self).__name__} has stopped: {self.stop_reason}")
        if self._in_hand is not None:
            raise RuntimeError("ask was called twice: tell the losses of the last points first")
        if self._generation is None:
            self._generation = self._next_generation()
            self._losses, self._handed_out = [], 0
        part = self._generation[self._handed_out : self._handed_out + max_n]
        self._handed_out += len(part)
        self._in_hand = part
        return part.copy()

    def tell(self, X: np.ndarray, F: np.ndarray, G: np.ndarray | None = None) -> None:
        """Report the losses F (k,) of the points X (k, d) of the last `ask`, in its order.

        A loss that is not finite counts as the worst there is, and is never the best. G (k, c) are constraint values,
        feasible where ≤ 0, or None; what is infeasible comes behind what is feasible.

        Raises:
            RuntimeError: where nothing was asked.
            ValueError: X is not what `ask` returned, or F or G does not fit it.
        """
        self._require_set_up()
        if self._in_hand is None or self._generation is None:
            raise RuntimeError("tell was called without ask: only points that were asked for can be told")
        X, F = np.asarray(X, dtype=np.float64), np.asarray(F, dtype=np.float64)
        if X.shape != self._in_hand.shape or not np.array_equal(X, self._in_hand, equal_nan=True):
            raise ValueError("tell needs the points of the last ask, unchanged and in its order")
        if F.shape != (len(X),):
            raise ValueError(f"F must have shape ({len(X)},), got {F.shape}")
        F = np.where(np.isfinite(F), F, np.inf)
        order = F
        if G is not None and np.size(G):
            G = np.asarray(G, dtype=np.float64)
            if G.ndim != 2 or len(G) != len(X):
                raise ValueError(f"G must have shape ({len(X)}, constraints), got {G.shape}")
            order = in_order(F, violations(G))
            self._constraints.append(G)
        best = int(np.argmin(order))
        if order[best] < self._best_order:
            self._best_order = float(order[best])
            self.best_x, self.best_loss = X[best].copy(), float(F[best])
        self.evaluations_told += self._charge(len(X))
        self._losses.append(F if self.handles_constraints else order)
        self._in_hand = None
        if self._handed_out == len(self._generation):
            generation, losses = self._generation, np.concatenate(self._losses)
            self.G = np.concatenate(self._constraints) if self._constraints else None
            self._generation, self._constraints = None, []
            if self._x0_pending:
                self._x0_pending = False
                self._tell_x0(float(losses[0]))
            else:
                self._tell(generation, losses)

    def recommend(self) -> np.ndarray:
        """The point (d,) this algorithm answers with."""
        self._require_set_up()
        return np.array(self._recommend(), dtype=np.float64)

    # What a subclass provides.

    def _setup(self) -> None:
        """Create the algorithm's state from `self.space` and `self.rng`."""

    def _ask(self) -> np.ndarray:
        """The next whole generation, (k, d)."""
        raise NotImplementedError

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        """Take in the losses F (k,) of a whole generation X (k, d); +inf marks one that was not finite.

        Unless `handles_constraints`, those from `feasibility.INFEASIBLE` on are of infeasible points, and say nothing
        but their order.
        """
        raise NotImplementedError

    def _tell_x0(self, loss: float) -> None:
        """Take in the loss of x0, told before the first generation when `start_at_x0`; ignored unless overridden."""

    def _recommend(self) -> np.ndarray:
        return self.best_x

    def _charge(self, points: int) -> int:
        """Evaluations that the points told just now count as."""
        return points

    # For a subclass that hands losses on to another library.

    def _finite(self, F: np.ndarray) -> np.ndarray:
        """Losses (k,) with the penalty for what is not finite, or the worst finite one so far if that is worse."""
        finite = np.isfinite(F)
        F = np.clip(F, -LARGEST, LARGEST)
        self._worst = max(self._worst, float(np.max(F, where=finite, initial=-np.inf)))
        return np.where(finite, F, max(self.penalty, self._worst))

    # Bookkeeping.

    def _next_generation(self) -> np.ndarray:
        if self._x0_pending:
            return self.space.x0[None, :].copy()
        X = np.asarray(self._ask(), dtype=np.float64)
        if X.ndim != 2 or X.shape[1] != self.space.dimension or not len(X):
            raise RuntimeError(f"{type(self).__name__}._ask returned shape {X.shape}, not (k, {self.space.dimension})")
        return X

    def _require_set_up(self) -> None:
        if not self.is_set_up:
            raise RuntimeError(
                f"{type(self).__name__} was configured but not started: pass it to minimize, or call setup"
            )
