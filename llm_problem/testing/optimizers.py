"""Checks of an optimizer: of the ask/tell protocol, and of what runs depend on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llm_problem.optimizer import Optimizer
from llm_problem.testing.promises import promised, require

D = 4
_SETTINGS = {"dimension": D, "x0": 0.0, "bounds": (-5.0, 5.0), "sigma": 1.0, "horizon": 60}


def check_optimizer(
    make: Callable[..., Any], *, seeded: bool = True, whole: bool = True, non_finite: bool = True
) -> None:
    """Check an optimizer on a small quadratic.

    Args:
        make: called with dimension, x0, bounds, sigma, horizon, batch_size, seed and start_at_x0, as `make_optimizer`
            takes them; gives an `Optimizer` that is ready to be asked. For example
            `functools.partial(make_optimizer, "cma")`, or a function that makes your own.
        seeded: whether it draws random numbers, so that another seed gives another trajectory.
        whole: whether a generation that is handed out in parts leaves the trajectory as it is.
        non_finite: whether losses that are not finite are told too. `minimize` tells them to optimizers that derive
            from `BaseOptimizer` only, others get the problem's penalty.

    Raises:
        BrokenPromiseError: a promise that it does not keep.
    """
    optimizer = _made(make, 0)
    require(isinstance(optimizer, Optimizer), "an optimizer has ask, tell, recommend and stop_reason")
    require(optimizer.stop_reason is None, "a new optimizer can be asked", f"stop_reason {optimizer.stop_reason!r}")
    trajectory = _run(optimizer, [7] * 20)
    np.random.random(3)  # noqa: NPY002 — nothing must follow from the global generator
    require(_equal(_run(_made(make, 0), [7] * 20), trajectory), "the same seed gives the same trajectory")
    if seeded:
        require(not _equal(_run(_made(make, 1), [7] * 20), trajectory), "another seed gives another trajectory")
    x0 = trajectory[0][0]
    require(not x0.any(), "with start_at_x0 the first point is x0", f"{x0}")
    for most in (1, 2, 1000):
        X = _asked(_made(make, 0), most)
        require(1 <= len(X) <= most, f"ask({most}) gives from 1 to {most} points", f"{len(X)}")
    if whole:
        parts = _run(_made(make, 0), [1, 3, 2, 5] * 10)
        n = min(len(np.concatenate(trajectory)), len(np.concatenate(parts)))
        cut, uncut = (np.concatenate(run)[:n] for run in (parts, trajectory))
        require(np.array_equal(cut, uncut), "a generation handed out in parts gives the same trajectory")
    _check_large_losses(make, [1e6, 1e9])
    if non_finite:
        _check_large_losses(make, [np.nan, np.inf, -np.inf])


def _check_large_losses(make: Callable[..., Any], bad: list[float]) -> None:
    """Points whose losses are no losses are neither the answer nor the end."""
    optimizer, told = _made(make, 0), 0
    losses: dict[bytes, float] = {}  # a point that comes again, as those of algorithms for noise do, has the same
    spoilt: list[np.ndarray] = []
    for _ in range(12):
        if optimizer.stop_reason is not None:
            break
        X = _asked(optimizer, 5)
        F = _quadratic(X)
        wrong = (told + np.arange(len(X))) % 3 == 1
        F[wrong] = np.resize(bad, wrong.sum())
        F = np.array([losses.setdefault(x.tobytes(), loss) for x, loss in zip(X, F, strict=True)])
        spoilt += [x for x, loss in zip(X, F, strict=True) if not np.isfinite(loss) or loss >= 1e6]
        told += len(X)
        with promised(f"tell takes losses such as {bad[0]}"):
            optimizer.tell(X, F)
    x = _recommended(optimizer)
    answered = any(np.array_equal(x, point) for point in spoilt)
    require(not answered, f"points with losses such as {bad[0]} are not recommended", f"{x}")


def _run(optimizer: Any, sizes: list[int]) -> list[np.ndarray]:
    """The points of each ask."""
    seen: list[np.ndarray] = []
    for most in sizes:
        if optimizer.stop_reason is not None:
            break
        X = _asked(optimizer, most)
        seen.append(X.copy())
        with promised("tell takes the points of the last ask and their losses"):
            optimizer.tell(X, _quadratic(X))
    _recommended(optimizer)
    return seen


def _equal(run: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(run) == len(other) and all(map(np.array_equal, run, other))


def _made(make: Callable[..., Any], seed: int) -> Any:
    with promised("it can be made with the settings of make_optimizer"):
        return make(**_SETTINGS, batch_size=None, seed=seed, start_at_x0=True)


def _asked(optimizer: Any, most: int) -> np.ndarray:
    with promised(f"ask({most}) gives points"):
        X = optimizer.ask(most)
    shaped = isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == D and X.dtype == np.float64
    require(shaped, f"ask gives an array (k, {D}) of float64", f"{type(X).__name__} of shape {np.shape(X)}")
    require(1 <= len(X) <= most, f"ask({most}) gives from 1 to {most} points", f"{len(X)}")
    require(np.isfinite(X).all(), "points are finite", f"{X}")
    return X


def _recommended(optimizer: Any) -> np.ndarray:
    with promised("recommend() gives a point"):
        x = np.asarray(optimizer.recommend(), dtype=np.float64)
    require(x.shape == (D,) and np.isfinite(x).all(), f"recommend() gives a finite point ({D},)", f"{x}")
    return x


def _quadratic(X: np.ndarray) -> np.ndarray:
    """‖x − 1‖² (k,) of X (k, d)."""
    return np.square(X - 1.0).sum(axis=1)
