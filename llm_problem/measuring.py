"""What a problem says of a point on a split: metrics, their standard errors, and how two points differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llm_problem.statistics import DRAWS, Comparison, Estimate, Scored, bootstrap, compare

if TYPE_CHECKING:
    from llm_problem.problem import Problem


class Measuring:
    """The part of `Problem` that reads other splits than an optimizer does."""

    def metrics(self, x: Any, split: str = "test") -> dict[str, float]:
        """Every metric of the task at x (d,) on a split; "test" is meant to be read once, at the end.

        Where the problem minimises or limits drift or norm, those too, which are the same on every split.
        """
        problem = cast("Problem", self)
        X, batch = problem._one(x), problem.batch(split)
        scores = problem.spec.task.scores(problem.evaluator.log_probs(X, batch)[0], batch)
        return {**scores, **problem._objectives.of_model(X)}

    def estimate(self, x: Any, split: str = "test", *, draws: int = DRAWS, seed: int = 0) -> dict[str, Estimate]:
        """The metrics at x (d,) with their standard errors and 95% intervals, by the bootstrap over the examples.

        The examples of a split are taken for independent draws: windows of a running text hardly are, so theirs are
        somewhat narrow; give a task whose examples share passages its `group`.

        Args:
            x: the point.
            split: "test" is meant to be read once, at the end.
            draws: how often the examples are drawn anew.
            seed: of the draws; the same seed gives the same interval.

        Raises:
            ValueError: a shape or number that does not fit, or a split of fewer than two examples (or groups).
        """
        (scored,) = self._scored([x], split)
        return bootstrap(scored, draws=draws, seed=seed)

    def compare(
        self, before: Any, after: Any, split: str = "test", *, draws: int = DRAWS, seed: int = 0
    ) -> dict[str, Comparison]:
        """By what each metric changes from a point (d,) to another, with the 95% interval of the paired difference.

        >>> change = problem.compare(problem.x0, result.x)["loss"]
        >>> change.value, change.low, change.high, change.verdict  # "gain", "loss" or "no gain"

        Arguments and errors as for `estimate`. Both points answer the same examples, so the interval is that of the
        difference, which is narrower than those of the two.
        """
        return compare(*self._scored([before, after], split), draws=draws, seed=seed)

    def _scored(self, points: Sequence[Any], split: str) -> list[Scored]:
        """What each point (d,) scores on the examples of a split."""
        problem = cast("Problem", self)
        X, batch = np.concatenate([problem._one(x) for x in points]), problem.batch(split)
        return [problem.spec.task.scored(found, batch) for found in problem.evaluator.log_probs(X, batch)]
