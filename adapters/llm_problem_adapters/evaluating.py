"""What a run gets for the points it asks for: losses that were checked, and what became of each evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_problem.points import float_array
from llm_problem.workers.errors import Abandoned, GivenUp, Killed, NotBuilt, TimedOut
from llm_problem_adapters.options import choice

__all__ = ["Evaluating", "Found", "Killed", "NotBuilt", "OutOfTime", "TimedOut", "joined"]

ERRORS = ("raise", "record")


class OutOfTime(Exception):
    """The run's time is over: nothing more is evaluated."""


@dataclass(frozen=True)
class Found:
    """What there is for k points."""

    losses: np.ndarray  # (k,) as they were found, NaN where there is none
    status: np.ndarray  # (k,) "ok", "non-finite", "failed", "timed out" or "censored"
    G: np.ndarray | None = None  # (k, c) constraint values, feasible where ≤ 0
    gradients: np.ndarray | None = None  # (k, d)
    notes: tuple[str | None, ...] = ()  # (k,) why one failed


class Evaluating:
    """Evaluates a problem's points for one run.

    Args:
        problem: see `minimize`.
        errors: "raise" lets out what the problem raises; "record" makes it a failed evaluation, which is none of the
            other points' affair: they are evaluated again one by one, to see whose it is.
        alone: whether each point is evaluated by itself (where a limit holds for one evaluation); what passes the limit
            is recorded then, whatever `errors`.
        seconds: from now on, after which nothing more is evaluated; None is no end.

    Raises:
        ValueError: another `errors`.
    """

    def __init__(self, problem: Any, errors: str = "raise", alone: bool = False, seconds: float | None = None) -> None:
        self._problem, self._alone = problem, alone
        self._apart = alone or hasattr(problem, "outcomes")  # what an evaluation kills is not the driver
        self._errors = choice("errors", errors, ERRORS)
        self._constraints = len(getattr(problem, "constraints", ()))
        self._begun = False
        self._end = None if seconds is None else time.monotonic() + seconds

    def found(self, X: np.ndarray, sample: int | None = None, against: np.ndarray | None = None) -> Found:
        """X (k, d) on the search split; of a minibatch, or in a race against a point (d,), where one is given.

        Raises:
            OutOfTime: the run's time was over before this began; something is evaluated all the same.
        """
        self._require_time()
        return self._found(X, sample, against)

    def _found(self, X: np.ndarray, sample: int | None, against: np.ndarray | None) -> Found:
        finite = np.isfinite(X).all(axis=1)
        if against is None and not finite.all():
            inside = self._found(X[finite], sample, None) if finite.any() else None
            return _spread(inside, finite, self._constraints)
        if hasattr(self._problem, "outcomes"):  # workers, who say of each point what became of it
            return self._by_workers(X, sample, against)
        if self._alone and len(X) > 1:
            return joined([self._found(x[None], sample, against) for x in X])
        try:
            if against is not None:
                losses, status = self._problem.race(X, against)
                return Found(_copied("the losses of race", losses), np.array(status))
            losses, G = self._values(X, sample)
        except NotBuilt:
            raise
        except TimedOut as error:
            return self._nothing("timed out", error)
        except Exception as error:
            if self._errors == "raise" and not (self._alone and isinstance(error, Killed)):
                raise
            if len(X) > 1:
                return joined([self._found(x[None], sample, against) for x in X])
            return self._nothing("failed", error)
        good = np.isfinite(losses) & (G is None or np.isfinite(G).all(axis=1))
        return Found(losses, np.where(good, "ok", "non-finite"), G)

    def _by_workers(self, X: np.ndarray, sample: int | None, against: np.ndarray | None) -> Found:
        """Of a point that cost its workers their lives, or took too long, that is recorded, whatever `errors`."""
        method = "race" if against is not None else "evaluate_all" if self._constraints else "evaluate"
        options = {"against": against} if against is not None else {} if sample is None else {"sample": sample}
        parts = []
        for outcome in self._problem.outcomes(method, X, **options):
            try:
                if isinstance(outcome, Exception):
                    raise outcome
                parts.append(self._read(method, outcome))
            except (NotBuilt, Abandoned):
                raise
            except GivenUp as error:
                parts.append(self._nothing(error.status, error))
            except Exception as error:
                if self._errors == "raise":
                    raise
                parts.append(self._nothing("failed", error))
        return joined(parts)

    def _read(self, method: str, row: Any) -> Found:
        """What a worker said of one point."""
        if method == "race":
            return Found(_copied("the losses of race", [row[0]]), np.array([row[1]]))
        if method == "evaluate":
            losses, G = self._checked_losses([row], 1), None
        else:
            losses, G = self._checked_all([row[0]], [row[1]], 1)
        good = np.isfinite(losses) & (G is None or np.isfinite(G).all(axis=1))
        return Found(losses, np.where(good, "ok", "non-finite"), G)

    def gradients(self, X: np.ndarray) -> Found:
        """Losses of X (k, d) with their gradients."""
        self._require_time()
        losses, gradients = np.full(len(X), np.nan), np.full(X.shape, np.nan)
        status, notes = np.full(len(X), "non-finite"), list[str | None]([None] * len(X))
        for i in np.flatnonzero(np.isfinite(X).all(axis=1)):
            try:
                loss, gradient = self._problem.value_and_grad(X[i])
                losses[i] = _copied("the loss of value_and_grad", loss)
                gradient = _copied("the gradient of value_and_grad", gradient)
                if gradient.shape != X[i].shape:
                    raise ValueError(
                        f"value_and_grad must return a gradient of shape {X[i].shape}, got {gradient.shape}"
                    )
                gradients[i] = gradient
                status[i] = "ok" if np.isfinite(losses[i]) else "non-finite"
            except NotBuilt:
                raise
            except TimedOut as error:
                status[i], notes[i] = "timed out", _said(error)
            except Exception as error:
                if self._errors == "raise" and not (self._apart and isinstance(error, Killed)):
                    raise
                losses[i], status[i], notes[i] = np.nan, "failed", _said(error)
        return Found(losses, status, gradients=gradients, notes=tuple(notes))

    def _values(self, X: np.ndarray, sample: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        only = {} if sample is None else {"sample": sample}  # a problem need not know minibatches
        if not self._constraints:
            return self._checked_losses(self._problem.evaluate(X, **only), len(X)), None
        F, G, _ = self._problem.evaluate_all(X, **only)
        return self._checked_all(F, G, len(X))

    def _checked_losses(self, values: Any, n: int) -> np.ndarray:
        losses = _copied("the losses of evaluate", values)
        if losses.shape != (n,):
            raise ValueError(f"evaluate must return losses of shape ({n},), got {losses.shape}")
        return losses

    def _checked_all(self, F: Any, G: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
        F, G = _copied("F of evaluate_all", F), _copied("G of evaluate_all", G)
        if F.shape != (n, 1) or G.shape != (n, self._constraints):
            raise ValueError(
                f"evaluate_all must return F of shape ({n}, 1) and G of shape ({n}, {self._constraints}), "
                f"got {F.shape} and {G.shape}"
            )
        return F[:, 0].copy(), G

    def _require_time(self) -> None:
        if self._end is not None and self._begun and time.monotonic() > self._end:
            raise OutOfTime("the time limit is over")
        self._begun = True

    def _nothing(self, status: str, error: Exception) -> Found:
        G = np.full((1, self._constraints), np.nan) if self._constraints else None
        return Found(np.full(1, np.nan), np.full(1, status), G, notes=(_said(error),))


def _copied(name: str, values: Any) -> np.ndarray:
    """The caller's array is not ours; −0.0 becomes 0.0, which no database tells apart."""
    return float_array(name, values) + 0.0


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:1000]


def joined(parts: list[Found]) -> Found:
    """What was found in parts, in their order."""
    if len(parts) == 1:
        return parts[0]
    G = [part.G for part in parts if part.G is not None]
    gradients = [part.gradients for part in parts if part.gradients is not None]
    return Found(
        np.concatenate([part.losses for part in parts]),
        np.concatenate([part.status for part in parts]),
        np.concatenate(G) if G else None,
        np.concatenate(gradients) if gradients else None,
        tuple(note for part in parts for note in (part.notes or (None,) * len(part.losses))),
    )


def _spread(inside: Found | None, where: np.ndarray, constraints: int) -> Found:
    """What was found at some of the points, at their places; nothing at the others."""
    losses, status = np.full(len(where), np.nan), np.full(len(where), "non-finite")
    G = np.full((len(where), constraints), np.nan) if constraints else None
    notes: list[str | None] = [None] * len(where)
    if inside is not None:
        losses[where], status[where] = inside.losses, inside.status
        if G is not None:
            G[where] = inside.G
        for place, note in zip(np.flatnonzero(where), inside.notes, strict=False):
            notes[place] = note
    return Found(losses, status, G, notes=tuple(notes))
