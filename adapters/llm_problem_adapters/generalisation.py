"""What keeps a search from answering with a point that fits its examples alone.

Three options, each off unless it is named: the answer is chosen, of what the search offers on its way, by the loss on
the dev split, and the search ends early where that no longer falls (early stopping: Prechelt 1998); the answer is an
average of points (Polyak & Juditsky 1992, of iterates); the search examples are drawn anew every so often. The test
split is read by none of them. A loss that a choice went by is too low, as the lowest of several: what the answer is
worth, another split must say.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem_adapters.options import choice, integer

if TYPE_CHECKING:
    import pandas as pd

AVERAGES = ("recommended", "best")
LOOKS = 50  # in a budget


@dataclass(frozen=True)
class Generalisation:
    """The options, for `minimize(…, generalisation=Generalisation(…))`.

    Args:
        choose: "dev" returns, of the pretrained model, the points recommended and the best points seen on the way, and
            the averages, that one whose loss on the dev split is lowest. None leaves the choice to the optimizer.
        every: search evaluations from one look at those points to the next; a fiftieth of the budget, if None.
        patience: looks in a row without a lower dev loss after which the search ends; None never ends it. Needs
            `choose`.
        average: "recommended", the mean of the points recommended at the last looks, or "best", that of the best points
            seen, by their search loss. With `choose` it is one more point to choose from, else it is the answer.
        of: points of an average, at least 2.
        resample: search evaluations for which one numbered minibatch of the search split is kept
            (`problem.evaluate(X, sample=k)`); one ask's points are always compared on one. None evaluates all of the
            split every time. Losses of different minibatches are not comparable, so that no best point is offered or
            averaged; the answer is evaluated on the whole search split.
    """

    choose: str | None = None
    every: int | None = None
    patience: int | None = None
    average: str | None = None
    of: int = 5
    resample: int | None = None

    def __post_init__(self) -> None:
        if self.choose == "test":
            raise ValueError("the test split is read once, when all choices are made: choose by 'dev'")
        if self.choose is not None:
            choice("choose", self.choose, ("dev",))
        if self.average is not None:
            choice("average", self.average, AVERAGES)
        for name in ("every", "patience", "resample"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1)
        integer("of", self.of, 2)
        if self.patience is not None and self.choose is None:
            raise ValueError("patience counts looks at the dev split: it needs choose='dev'")
        if self.resample is not None and self.average == "best":
            raise ValueError("the best points of different minibatches are not comparable: average 'recommended' ones")


@dataclass(frozen=True)
class Choice:
    """How the answer of a run came about; the `generalisation` of its `Result`."""

    options: Generalisation
    offered: tuple[tuple[int, str, float], ...]  # search evaluations spent, what it is, its dev loss (NaN: not read)
    chosen: int | None  # which of `offered` was returned; None where it was none of them (the run broke off)
    evaluations: int  # on the dev split, beside those of the budget

    @property
    def history(self) -> pd.DataFrame:
        """One row a point offered; columns: evaluation, point, dev_loss (what is minimised, on dev), chosen."""
        import pandas as pd

        rows = [(*row, number == self.chosen) for number, row in enumerate(self.offered)]
        return pd.DataFrame(rows, columns=["evaluation", "point", "dev_loss", "chosen"])


class Choosing:
    """The options at work in one run: told what the search finds, asked what to answer.

    Args:
        options: the options.
        problem: read on the dev split.
        budget: of the search.

    Raises:
        TypeError: the problem cannot be evaluated on other splits.
        ValueError: it has no dev split.
    """

    def __init__(self, options: Generalisation, problem: Any, budget: int) -> None:
        if options.choose is not None and not callable(getattr(problem, "evaluate_all", None)):
            raise TypeError("choose='dev' needs a problem with evaluate_all(X, split=…), such as llm_problem.Problem")
        self._options, self._problem = options, problem
        self._every = options.every or max(1, budget // LOOKS)
        self._next, self._idle = self._every, 0
        self._points: dict[bytes, int] = {}  # a point's bytes → its number in `offered`
        self._vectors: list[np.ndarray] = []
        self._offered: list[tuple[int, str, float]] = []
        self._evaluations = 0
        self._recommended: deque[np.ndarray] = deque(maxlen=options.of)
        self._best: list[tuple[float, int, np.ndarray]] = []  # a heap of (−order, −when, point), the worst first
        self._lowest = np.inf
        if options.choose is not None:
            self._offer(0, {"pretrained": np.array(problem.x0, dtype=np.float64)})

    def saw(self, evaluations: int, X: np.ndarray, order: np.ndarray) -> None:
        """The search evaluated X (k, d), of places in the order of points (k,), lower is better."""
        if self._options.average != "best":
            return
        for k in np.flatnonzero(np.isfinite(order)):
            x = np.array(X[k])
            if any(np.array_equal(x, known) for _, _, known in self._best):
                continue
            heapq.heappush(self._best, (-float(order[k]), -(evaluations + int(k)), x))
            if len(self._best) > self._options.of:
                heapq.heappop(self._best)

    def look(self, evaluations: int, recommend: Callable[[], np.ndarray], best: np.ndarray) -> bool:
        """Look at what there is, where it is time to; whether patience is at its end.

        Args:
            evaluations: of the search, so far.
            recommend: gives the optimizer's point (d,).
            best: the best point seen (d,).
        """
        if evaluations < self._next:
            return False
        self._next = evaluations + self._every
        lowest = self._lowest
        self._gather(evaluations, np.array(recommend(), dtype=np.float64), best)
        self._idle = 0 if self._lowest < lowest else self._idle + 1
        return self._options.patience is not None and self._idle >= self._options.patience

    def answer(self, evaluations: int, recommended: np.ndarray, best: np.ndarray) -> np.ndarray:
        """The point (d,) to answer with, where the search is over and recommends one."""
        average = self._gather(evaluations, recommended, best)
        if self._options.choose is not None:
            losses = [loss for _, _, loss in self._offered]
            return recommended if not np.isfinite(losses).any() else self._vectors[int(np.nanargmin(losses))]
        return recommended if average is None else average

    def record(self, x: np.ndarray) -> Choice:
        """How a run that answers with x (d,) chose it."""
        chosen = self._points.get(x.tobytes())
        return Choice(self._options, tuple(self._offered), chosen, self._evaluations)

    def _gather(self, evaluations: int, recommended: np.ndarray, best: np.ndarray) -> np.ndarray | None:
        """Offer what there is now; the average, where one is asked for and there are points for it."""
        if not any(np.array_equal(recommended, known) for known in self._recommended):
            self._recommended.append(recommended)
        found = {"recommended": recommended}
        if self._options.resample is None:
            found["best"] = best
        of_best = self._options.average == "best"
        members = [x for _, _, x in self._best] if of_best else list(self._recommended)
        if self._options.average is not None and len(members) > 1:
            found[f"average of {len(members)} {'best' if of_best else 'recommended'}"] = np.mean(members, axis=0)
        self._offer(evaluations, found)
        return list(found.values())[-1] if len(members) > 1 and self._options.average is not None else None

    def _offer(self, evaluations: int, found: dict[str, np.ndarray]) -> None:
        new: list[str] = []
        for name, x in found.items():
            if x.tobytes() not in self._points and np.isfinite(x).all():
                self._points[x.tobytes()] = len(self._vectors)
                self._vectors.append(x.copy())
                new.append(name)
        if new:
            losses = self._dev_losses(np.stack(self._vectors[-len(new) :])).tolist()
            self._offered += [(evaluations, name, loss) for name, loss in zip(new, losses, strict=True)]
            self._lowest = min([self._lowest, *(loss for loss in losses if not np.isnan(loss))])

    def _dev_losses(self, X: np.ndarray) -> np.ndarray:
        """The dev losses (n,) of X (n, d), infinite where one is not finite or not feasible; NaN without a choice."""
        if self._options.choose is None:
            return np.full(len(X), np.nan)
        F, G, _ = self._problem.evaluate_all(X, split=self._options.choose)
        self._evaluations += len(X)
        feasible = np.isfinite(F[:, 0]) & (np.asarray(G) <= 0).all(axis=1)
        return np.where(feasible, F[:, 0], np.inf)
