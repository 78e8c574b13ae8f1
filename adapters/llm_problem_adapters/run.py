"""The books of one run: what was asked, found and told, what it cost, and what is best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem.records.rows import digest
from llm_problem_adapters.base import PENALTY, BaseOptimizer
from llm_problem_adapters.evaluating import Evaluating
from llm_problem_adapters.feasibility import finite_constraints, in_order, violations
from llm_problem_adapters.generalisation import Choosing, Generalisation
from llm_problem_adapters.gradient import wants_gradients
from llm_problem_adapters.recording import Unrecorded
from llm_problem_adapters.result import Progress, Result

if TYPE_CHECKING:
    from llm_problem.optimizer import Optimizer


@dataclass(frozen=True)
class Batch:
    """The records of one batch of k points; `G` (k, c) and `violations` (k,) where there are constraints."""

    losses: np.ndarray  # (k,)
    status: np.ndarray  # (k,)
    seconds: float  # at its end
    X: np.ndarray | None  # (k, d), where points are kept
    G: np.ndarray | None
    violations: np.ndarray | None


class Run:
    """One run of an optimizer on a problem for an exact number of evaluations; `minimize` says by what rules."""

    def __init__(
        self,
        problem: Any,
        optimizer: Optimizer,
        budget: int,
        seed: int,
        callback: Callable[[Progress], None] | None,
        keep_x: bool,
        race: bool,
        generalisation: Generalisation | None = None,
        evaluating: Evaluating | None = None,
        books: Unrecorded | None = None,
    ) -> None:
        self.problem, self.optimizer, self.budget, self.callback = problem, optimizer, budget, callback
        self.evaluating, self.books = evaluating or Evaluating(problem), books or Unrecorded()
        self.seed = getattr(optimizer, "seed", seed)
        self.penalty = float(getattr(problem, "penalty", PENALTY))
        if isinstance(optimizer, BaseOptimizer):
            optimizer.penalty = self.penalty
        self.name = getattr(optimizer, "name", "") or type(optimizer).__name__
        self.stop_reason = "budget"
        self.evaluations = 0
        self.constraints = len(getattr(problem, "constraints", ()))
        # Point, loss, violation; and its place in the order of Deb's rules.
        nothing = np.inf if self.constraints else 0.0
        self.best: tuple[np.ndarray, float, float] = (np.array(problem.x0, dtype=np.float64), np.inf, nothing)
        self.best_order = np.inf
        self.keep_x, self.race = keep_x, race
        self.batches: list[Batch] = []  # one list, so that an interruption cannot leave two of different lengths
        self.found: dict[bytes, tuple[float, float]] = {}  # digest of a point's bytes → its loss and violation
        self.resample = None if generalisation is None else generalisation.resample
        self.choosing = (
            None if generalisation is None else Choosing(generalisation, self.books.reading(problem), budget)
        )

    def search(self) -> None:
        """Spend all but the last evaluation, or, of a budget of one, that one."""
        while self.optimizer.stop_reason is None and self.evaluations < max(1, self.budget - 1):
            self.step(max(1, self.budget - 1) - self.evaluations)
            if self.choosing and self.choosing.look(self.evaluations, self.optimizer.recommend, self.best[0]):
                self.stop_reason = "patience"
                return
        self.stop_reason = self.optimizer.stop_reason or "budget"

    def step(self, max_n: int) -> None:
        X = np.asarray(self.optimizer.ask(max_n), dtype=np.float64)
        cost = self.optimizer.gradient_cost if wants_gradients(self.optimizer) else 1  # type: ignore[attr-defined]
        if X.ndim != 2 or not 1 <= len(X) * cost <= max_n or X.shape[1] != self.problem.dimension:
            raise ValueError(
                f"the optimizer's ask({max_n}) must return between 1 and {max_n} points of dimension "
                f"{self.problem.dimension}, got shape {X.shape}"
            )
        if wants_gradients(self.optimizer):
            losses, gradients = self.differentiate(X, cost)
            self.optimizer.tell(X, losses, gradients=gradients)  # type: ignore[call-arg]
            return
        batch = self.evaluate(X)
        losses, G = batch.losses, batch.G
        if not isinstance(self.optimizer, BaseOptimizer):  # the protocol's losses are finite; ours know the worst
            if G is not None and getattr(self.optimizer, "handles_constraints", False):
                G = finite_constraints(losses, G)
            elif batch.violations is not None:
                losses, G = in_order(losses, batch.violations, self.penalty - 1, self.penalty), None
            losses = np.where(np.isfinite(losses), losses, self.penalty)
        if G is None:
            self.optimizer.tell(X, losses)
        else:
            self.optimizer.tell(X, losses, G)

    def recommend(self) -> tuple[np.ndarray, float, float]:
        """The point to answer with, its loss and its violation, spending what is left of the budget."""
        x = self._answer()
        found = self.found.get(digest(x))
        if found is None and self.evaluations < self.budget:
            self.evaluate(x[None, :], race=False, whole=True)
            found = self.found[digest(x)]
        elif self.evaluations < self.budget and self.optimizer.stop_reason is None and self.stop_reason != "patience":
            self.step(1)
            later = self._answer()
            if digest(later) in self.found:
                x, found = later, self.found[digest(later)]
        if found is None or not np.isfinite(found[0]) or found[1] > 0:
            return self.best
        return (x, *found)

    def _answer(self) -> np.ndarray:
        """The point to answer with: what the optimizer recommends, or what the run's options make of it."""
        x = np.array(self.optimizer.recommend(), dtype=np.float64)
        return x if self.choosing is None else self.choosing.answer(self.evaluations, x, self.best[0])

    def evaluate(self, X: np.ndarray, race: bool = True, whole: bool = False) -> Batch:
        """Losses (k,) of X (k, d), raw, and constraint values; recorded, and shown to the callback.

        Of a minibatch, where they are drawn anew and not the `whole` search split is wanted.
        """
        sample = None if whole or self.resample is None else self.evaluations // self.resample
        against = self.best[0] if race and self.race and np.isfinite(self.best[1]) else None
        make = partial(self.evaluating.found, sample=sample, against=against)
        found = self.books.of(X, make, "answer" if whole else "search")
        batch = self._record(X, found.losses, found.status, found.G, known=sample is None)
        self._show(X, batch)
        return batch

    def differentiate(self, X: np.ndarray, cost: int) -> tuple[np.ndarray, np.ndarray]:
        """Losses (k,) and their gradients (k, d); recorded as `cost` rows each, the first with the loss."""
        found = self.books.of(X, self.evaluating.gradients, "search", cost)
        losses, status = np.full((len(X), cost), np.nan), np.full((len(X), cost), "gradient", dtype="<U10")
        losses[:, 0], status[:, 0] = found.losses, found.status
        rows = np.repeat(X, cost, axis=0)  # (k · cost, d)
        batch = self._record(rows, losses.ravel(), status.ravel(), None)
        for x, loss in zip(X, losses[:, 0].tolist(), strict=True):
            self.found[digest(x)] = loss, 0.0
        self._show(rows, batch)
        return found.losses, np.full(X.shape, np.nan) if found.gradients is None else found.gradients

    def _show(self, X: np.ndarray, batch: Batch) -> None:
        if self.callback is not None:
            violated = None if batch.violations is None else _read_only(batch.violations)
            best = self.best[1] if self.best[2] == 0 else np.inf
            shown = (_read_only(X), _read_only(batch.losses), batch.seconds, _read_only(batch.status), violated)
            self.callback(Progress(self.evaluations, self.budget, best, *shown))

    def _record(
        self, X: np.ndarray, losses: np.ndarray, status: np.ndarray, G: np.ndarray | None, known: bool = True
    ) -> Batch:
        """The books on a batch; `known`: its losses are those of the whole search split."""
        violated = None if G is None else violations(G)
        order = np.where(np.isfinite(losses), losses, np.inf)
        if violated is not None:
            order = in_order(order, violated)
        seconds = self.books.stamp
        batch = Batch(losses, status, seconds, X.copy() if self.keep_x else None, G, violated)
        self.batches.append(batch)
        self.evaluations += len(X)
        amounts = np.zeros(len(X)) if violated is None else violated
        if known:
            for x, loss, amount in zip(X, losses.tolist(), amounts.tolist(), strict=True):
                self.found[digest(x)] = loss, amount
        if self.choosing is not None:
            self.choosing.saw(self.evaluations - len(X), X, order)
        best = int(np.argmin(order))
        if order[best] < self.best_order:
            self.best_order = float(order[best])
            self.best = (X[best].copy(), float(losses[best]), float(amounts[best]))
        return batch

    def result(self, x: np.ndarray, loss: float, violation: float) -> Result:
        best_x, best_loss, _ = self.best if self.resample is None else (x, loss, violation)
        losses = np.concatenate([batch.losses for batch in self.batches])
        points = [batch.X for batch in self.batches if batch.X is not None]
        violated = [batch.violations for batch in self.batches if batch.violations is not None]
        return Result(
            x=x,
            loss=loss,
            best_x=best_x,
            best_loss=best_loss,
            evaluations=len(losses),
            seconds=self.books.seconds,
            stop_reason=self.stop_reason,
            optimizer=self.name,
            seed=self.seed,
            X=np.concatenate(points) if points else None,
            losses=losses,
            status=np.concatenate([batch.status for batch in self.batches]),
            batches=tuple((len(batch.losses), batch.seconds) for batch in self.batches),
            violation=violation,
            violations=np.concatenate(violated) if violated else None,
            generalisation=None if self.choosing is None else self.choosing.record(x),
        )


def _read_only(values: np.ndarray) -> np.ndarray:
    values = values.view()
    values.flags.writeable = False
    return values
