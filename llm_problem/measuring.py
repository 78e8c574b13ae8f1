"""What a problem says of a point on a split: metrics, their standard errors, and how two points differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from llm_problem.statistics import DRAWS, Comparison, Corpus, Estimate, Scored, bootstrap, compare

if TYPE_CHECKING:
    from llm_problem.problem import Problem


class Outputs(NamedTuple):
    """What a model wrote, example by example: the prompts as it read them, its texts, and the right answers of each."""

    prompts: list[str]
    outputs: list[str]
    references: list[tuple[str, ...]]


class Measuring:
    """The part of `Problem` that reads other splits than an optimizer does."""

    def metrics(self, x: Any, split: str = "test", *, generate: bool = True) -> dict[str, float]:
        """Every metric of the task at x (d,) on a split; "test" is meant to be read once, at the end.

        Where the problem minimises or limits drift or norm, those too, which are the same on every split. Metrics of
        written text (BLEU, F1, your scorer's) need a text for every example: `generate=False` leaves them out.
        """
        problem = cast("Problem", self)
        X, batch = problem._one(x), problem.batch(split)
        scores = problem.spec.task.scores(problem.evaluator.log_probs(X, batch)[0], batch)
        of_texts = problem._written.scores(X, batch) if generate else {}
        return {**scores, **of_texts, **problem._objectives.of_model(X)}

    def outputs(self, x: Any, split: str = "dev", size: int | None = None) -> Outputs:
        """What the model at x (d,) writes for a split, to look at.

        Args:
            x: the point.
            split: whose prompts.
            size: of the first so many examples only, None for all.

        Raises:
            ValueError: the task looks at no texts, a shape or number that does not fit, or a model whose predictions
                are not numbers.
        """
        problem = cast("Problem", self)
        X, batch = problem._one(x), problem.batch(split)
        if size is not None:
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise ValueError(f"size must be an integer of at least 1, or None for all, got {size!r}")
            batch = batch.take(np.arange(min(int(size), batch.examples)))
        texts = problem._written.texts(X, batch)
        if texts is None:
            raise ValueError("the model's predictions at this x are not numbers, so that it writes nothing")
        prompts, references = ([getattr(asked, name) for asked in batch.asked] for name in ("prompt", "references"))
        return Outputs(prompts, [text.text for text in texts], references)

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
        X, batch, task = np.concatenate([problem._one(x) for x in points]), problem.batch(split), problem.spec.task
        signatures = task.signatures
        found = [
            dataclasses.replace(task.scored(values, batch), signatures=signatures)
            for values in problem.evaluator.log_probs(X, batch)
        ]
        if not task.text_metrics:
            return found
        has_loss = "loss" in task.objectives
        corpora = [problem._written.corpus(X[i : i + 1], batch) for i in range(len(X))]
        return [_with_texts(scored, corpus, has_loss) for scored, corpus in zip(found, corpora, strict=True)]


def _with_texts(scored: Scored, corpus: Corpus, has_loss: bool) -> Scored:
    """What an example scores by its log-probabilities and by its text; by that alone where it has no reference."""
    if has_loss:
        return dataclasses.replace(scored, corpus=corpus)
    each = [corpus(np.array([number])) for number in range(len(scored.means["loss"]))]
    means = {name: np.array([scores[name] for scores in each]) for name in each[0]}
    return dataclasses.replace(scored, means=means, weights=None)
