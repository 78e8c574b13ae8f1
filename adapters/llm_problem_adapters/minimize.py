"""`minimize`: run an optimizer on a problem for an exact number of evaluations, and keep the records.

ask → evaluate → record → callback → tell, until N − 1 evaluations are spent; the last one is kept for the
point that the optimizer recommends, where that was never evaluated (the mean of a distribution, say).
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem_adapters.base import PENALTY, BaseOptimizer
from llm_problem_adapters.blas_threads import one_blas_thread
from llm_problem_adapters.registry import configure

if TYPE_CHECKING:
    import pandas as pd

    from llm_problem.optimizer import Optimizer


@dataclass(frozen=True)
class Progress:
    """What a callback gets after each batch, before the optimizer is told."""

    evaluations: int  # so far, this batch included
    budget: int
    best_loss: float  # so far; inf where none was finite
    X: np.ndarray  # (k, d) points of this batch, read-only
    losses: np.ndarray  # (k,) as they were found, non-finite ones too; read-only
    seconds: float  # since the run began


@dataclass(frozen=True, repr=False)
class Result:
    """What `minimize` found. Losses are minimised; the recommended point and the best seen are kept apart."""

    x: np.ndarray  # (d,) the point the optimizer recommends
    loss: float  # its own, evaluated within the budget; inf where no loss was finite
    best_x: np.ndarray  # (d,) the best point evaluated; x0 where no loss was finite
    best_loss: float  # inf where no loss was finite
    evaluations: int
    seconds: float
    stop_reason: str  # "budget", "interrupted", or the optimizer's own
    optimizer: str
    seed: int
    X: np.ndarray | None = field(default=None)  # (evaluations, d) with keep_x, else None
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))  # (evaluations,) raw; NaN where censored
    status: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="<U10"))  # (evaluations,) see `history`
    batches: tuple[tuple[int, float], ...] = ()  # of each batch: number of points, seconds at its end

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an evaluation.

        Columns: evaluation (from 1), batch (from 1: the points of one ask), loss (raw), best_loss (so far;
        inf before the first finite one), status ("ok", "non-finite" or "censored"), seconds (from the start to
        the end of its batch).
        """
        return _history(self.losses, self.status, self.batches)

    def __repr__(self) -> str:
        return (
            f"Result(loss={self.loss:.6g}, best_loss={self.best_loss:.6g}, evaluations={self.evaluations}, "
            f"optimizer={self.optimizer!r}, seed={self.seed}, stop_reason={self.stop_reason!r}, "
            f"seconds={self.seconds:.3g}, dimension={self.x.size})"
        )


def minimize(
    problem: Any,
    optimizer: str | Optimizer | Callable[..., Optimizer],
    budget: int,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    start_at_x0: bool = True,
    horizon: int | None = None,
    callback: Callable[[Progress], None] | None = None,
    keep_x: bool = False,
    race: bool = False,
    **options: Any,
) -> Result:
    """Minimise `problem` with `optimizer`, spending exactly `budget` evaluations.

    Fewer are spent only where the optimizer stops by itself or the run is interrupted. After N − 1
    evaluations the recommended point is asked for. If it was never evaluated, evaluation N is its own; if it
    was (the same to the bit), evaluation N is one more of the search, and counts unless the optimizer then
    recommends a point without a loss. Where the recommended point's loss is not finite, the best point seen
    takes its place. A generation that the budget cuts short is recorded, and told as far as it goes, but not
    learnt from.

    Args:
        problem: has `dimension`, `x0`, `bounds` ((lower, upper), or None), `sigma`, `evaluate(X)` → (n,)
            losses, and perhaps `penalty`, the finite loss that stands for one that is not where the optimizer
            is of another library (a `BaseOptimizer` takes losses as they are).
        optimizer: a name of `list_optimizers`; a configured optimizer that was not set up (it is copied
            first); one that is set up, which is used as it is, so that seed, batch_size, start_at_x0 and
            horizon are its own; or a callable that takes what `make_optimizer` takes after the name.
        budget: N, at least 1.
        seed: non-negative; the same seed gives the same run.
        batch_size: points proposed before any is told, for algorithms without generations of their own.
        start_at_x0: whether x0 is evaluation one.
        horizon: evaluations the optimizer plans for; the budget, if None.
        callback: called with a `Progress` after each batch, before the optimizer is told.
        keep_x: keep every point in `Result.X`.
        race: give up candidates that fall behind the best point so far on a part of the examples
            (`problem.race`, with its defaults). One that was given up is an evaluation, has the status "censored"
            and no loss, and counts as the worst there is when the optimizer is told.
        **options: of the optimizer, given by name or as a callable.

    Returns:
        The result. Once a batch was evaluated, a KeyboardInterrupt ends the run with what there is: its
        stop_reason is "interrupted" and its x the best point seen.

    Raises:
        TypeError: `optimizer` is none of these; an option it does not have.
        ValueError: a budget below one, an unknown name, an argument out of range, losses of the wrong shape.
        Whatever `evaluate` or the callback raises, with the `Result` so far, if any, as its attribute
        `partial_result`.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 1:
        raise ValueError(f"budget must be an integer of at least 1, got {budget!r}")
    settings = {
        "dimension": problem.dimension,
        "x0": problem.x0,
        "bounds": problem.bounds,
        "sigma": problem.sigma,
        "horizon": int(budget) if horizon is None else horizon,
        "batch_size": batch_size,
        "seed": seed,
        "start_at_x0": start_at_x0,
    }
    run = _Run(problem, _resolve(optimizer, settings, options), int(budget), seed, callback, keep_x, race)
    if isinstance(optimizer, str):
        run.name = optimizer
    try:
        with one_blas_thread():
            run.search()
            return run.result(*run.recommend())
    except KeyboardInterrupt:
        if not run.batches:
            raise
        run.stop_reason = "interrupted"
        return run.result(*run.best)
    except Exception as error:
        if run.batches:
            run.stop_reason = f"{type(error).__name__}: {error}"
            error.partial_result = run.result(*run.best)  # type: ignore[attr-defined]
            if hasattr(error, "add_note"):  # Python 3.11 on
                error.add_note(f"{run.evaluations} evaluations are in this error's partial_result")
        raise


def _resolve(optimizer: Any, settings: dict[str, Any], options: dict[str, Any]) -> Optimizer:
    """The optimizer that `minimize` was given in one of four ways, set up."""
    if isinstance(optimizer, str):
        return configure(optimizer, **options).setup(**settings)
    if isinstance(optimizer, type) and issubclass(optimizer, BaseOptimizer):
        return optimizer(**options).setup(**settings)
    if all(callable(getattr(optimizer, method, None)) for method in ("ask", "tell", "recommend")):
        if options:
            raise TypeError(f"an optimizer that is configured already takes no options, got {sorted(options)}")
        if isinstance(optimizer, BaseOptimizer) and not optimizer.is_set_up:
            return copy.deepcopy(optimizer).setup(**settings)
        return optimizer
    if callable(optimizer):
        return optimizer(**settings, **options)
    raise TypeError(f"optimizer must be a name, an optimizer or a callable that makes one, got {optimizer!r}")


class _Run:
    """The books of one run."""

    def __init__(
        self,
        problem: Any,
        optimizer: Optimizer,
        budget: int,
        seed: int,
        callback: Callable[[Progress], None] | None,
        keep_x: bool,
        race: bool,
    ) -> None:
        self.problem, self.optimizer, self.budget, self.callback = problem, optimizer, budget, callback
        self.seed = getattr(optimizer, "seed", seed)
        self.penalty = float(getattr(problem, "penalty", PENALTY))
        if isinstance(optimizer, BaseOptimizer):
            optimizer.penalty = self.penalty
        self.name = getattr(optimizer, "name", "") or type(optimizer).__name__
        self.stop_reason = "budget"
        self.evaluations = 0
        self.best: tuple[np.ndarray, float] = (np.array(problem.x0, dtype=np.float64), np.inf)
        self.keep_x, self.race = keep_x, race
        # Of each batch: losses (k,), status (k,), seconds at its end, points (k, d) or None. One list, so that an
        # interruption cannot leave two of different lengths.
        self.batches: list[tuple[np.ndarray, np.ndarray, float, np.ndarray | None]] = []
        self.loss_of: dict[bytes, float] = {}  # digest of a point's bytes → its loss
        self.started = time.perf_counter()

    def search(self) -> None:
        """Spend all but the last evaluation, or, of a budget of one, that one."""
        while self.optimizer.stop_reason is None and self.evaluations < max(1, self.budget - 1):
            self.step(max(1, self.budget - 1) - self.evaluations)
        self.stop_reason = self.optimizer.stop_reason or "budget"

    def step(self, max_n: int) -> None:
        X = np.asarray(self.optimizer.ask(max_n), dtype=np.float64)
        if X.ndim != 2 or not 1 <= len(X) <= max_n or X.shape[1] != self.problem.dimension:
            raise ValueError(
                f"the optimizer's ask({max_n}) must return between 1 and {max_n} points of dimension "
                f"{self.problem.dimension}, got shape {X.shape}"
            )
        losses = self.evaluate(X)
        if not isinstance(self.optimizer, BaseOptimizer):  # the protocol's losses are finite; ours know the worst
            losses = np.where(np.isfinite(losses), losses, self.penalty)
        self.optimizer.tell(X, losses)

    def recommend(self) -> tuple[np.ndarray, float]:
        """The point to answer with and its loss, spending what is left of the budget."""
        x = np.array(self.optimizer.recommend(), dtype=np.float64)
        loss = self.loss_of.get(_digest(x))
        if loss is None and self.evaluations < self.budget:
            loss = float(self.evaluate(x[None, :], race=False)[0])
        elif self.evaluations < self.budget and self.optimizer.stop_reason is None:
            self.step(1)
            later = np.array(self.optimizer.recommend(), dtype=np.float64)
            if (later_loss := self.loss_of.get(_digest(later))) is not None:
                x, loss = later, later_loss
        return (x, loss) if loss is not None and np.isfinite(loss) else self.best

    def evaluate(self, X: np.ndarray, race: bool = True) -> np.ndarray:
        """Losses (k,) of X (k, d), raw; recorded, and shown to the callback."""
        finite = np.isfinite(X).all(axis=1)
        losses, status = np.full(len(X), np.nan), np.full(len(X), "non-finite")
        if race and self.race and np.isfinite(self.best[1]):
            losses, status = self.problem.race(X, self.best[0])
        else:
            if finite.all():
                losses = self._losses_of(X)
            elif finite.any():
                losses[finite] = self._losses_of(X[finite])
            status[np.isfinite(losses)] = "ok"
        self._record(X, losses, status)
        if self.callback is not None:
            X, shown = X.view(), losses.view()
            X.flags.writeable = shown.flags.writeable = False
            seconds = self.batches[-1][2]
            self.callback(Progress(self.evaluations, self.budget, self.best[1], X, shown, seconds))
        return losses

    def _losses_of(self, X: np.ndarray) -> np.ndarray:
        losses = np.array(self.problem.evaluate(X), dtype=np.float64)
        if losses.shape != (len(X),):
            raise ValueError(f"evaluate must return losses of shape ({len(X)},), got {losses.shape}")
        return losses

    def _record(self, X: np.ndarray, losses: np.ndarray, status: np.ndarray) -> None:
        self.batches.append((losses, status, time.perf_counter() - self.started, X.copy() if self.keep_x else None))
        self.evaluations += len(X)
        for x, loss in zip(X, losses.tolist(), strict=True):
            self.loss_of[_digest(x)] = loss
        comparable = np.where(np.isfinite(losses), losses, np.inf)
        best = int(np.argmin(comparable))
        if comparable[best] < self.best[1]:
            self.best = (X[best].copy(), float(losses[best]))

    def result(self, x: np.ndarray, loss: float) -> Result:
        best_x, best_loss = self.best
        losses = np.concatenate([losses for losses, _, _, _ in self.batches])
        points = [X for _, _, _, X in self.batches if X is not None]
        return Result(
            x=x,
            loss=loss,
            best_x=best_x,
            best_loss=best_loss,
            evaluations=len(losses),
            seconds=time.perf_counter() - self.started,
            stop_reason=self.stop_reason,
            optimizer=self.name,
            seed=self.seed,
            X=np.concatenate(points) if points else None,
            losses=losses,
            status=np.concatenate([status for _, status, _, _ in self.batches]),
            batches=tuple((len(losses), seconds) for losses, _, seconds, _ in self.batches),
        )


def _digest(x: np.ndarray) -> bytes:
    return hashlib.blake2b(x.tobytes(), digest_size=16).digest()


def _history(losses: np.ndarray, status: np.ndarray, batches: tuple[tuple[int, float], ...]) -> pd.DataFrame:
    import pandas as pd

    counts = np.array([count for count, _ in batches], dtype=np.int64)
    finite = np.isfinite(losses)
    return pd.DataFrame(
        {
            "evaluation": np.arange(1, len(losses) + 1),
            "batch": np.repeat(np.arange(1, len(counts) + 1), counts),
            "loss": losses,
            "best_loss": np.minimum.accumulate(np.where(finite, losses, np.inf)),
            "status": status,
            "seconds": np.repeat(np.array([seconds for _, seconds in batches]), counts),
        }
    )
