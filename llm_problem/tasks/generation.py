"""Open generation: the model goes on from a prompt, and its text is scored by references or by a function of yours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llm_problem.models.loading import LoadedModel
from llm_problem.statistics import Corpus
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.generative import GenerativeTask
from llm_problem.tasks.rows import Row
from llm_problem.tasks.scorer import Function, Scorer


@dataclass(frozen=True)
class Generation(GenerativeTask):
    """Write a text after a prompt.

    Args:
        data: the examples; also the source of dev and test where those are not given.
        prompt: template with columns of the data by name, such as "Write a poem about {subject}.\\n".
        reference: the column of a text that would do, for the objective "loss"; None where there is none.
        scorer: for the objective "score", the mean of what this function says of each text: (prompts, outputs,
            references) → (N,) numbers, less being better; lists of strings, references None where there are none. Or
            its name "module:function". Outputs are as the model writes them, with the space that a causal model often
            begins with; a column of lists comes as JSON. A description names the function (see
            `llm_problem.tasks.scorer`), so that one that other processes are to find must stand in a module.

    Other arguments are those of `GenerativeTask`. There must be a reference or a scorer, and both may be.

    Raises:
        ValueError: neither, a template without its columns, a row with an empty reference.
    """

    kind: ClassVar[str] = "generation"

    data: Data
    prompt: str
    reference: str | None = None
    scorer: Scorer | Function | str | None = None

    def __post_init__(self) -> None:
        self._check()
        if self.reference is None and self.scorer is None:
            raise ValueError("generation needs something to go by: a reference column, or a scorer")
        if self.scorer is not None:
            object.__setattr__(self, "scorer", Scorer.of(self.scorer))
        # What there is to minimise depends on what was given.
        by_loss, by_score = ("loss",) * (self.reference is not None), ("score",) * (self.scorer is not None)
        object.__setattr__(self, "objectives", (*by_loss, *by_score))
        object.__setattr__(self, "headline", (*by_loss, *by_score))
        object.__setattr__(self, "text_metrics", by_score)

    @property
    def _scorer(self) -> Scorer | None:
        return self.scorer  # type: ignore[return-value]  # once it was checked

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        return () if self._scorer is None else (self._scorer.load(),)

    @property
    def nameless(self) -> str:
        return "" if self._scorer is None or self._scorer.portable else f"the scorer {self._scorer.function}"

    def _columns(self) -> Sequence[str]:
        return [*self._template.columns, *([] if self.reference is None else [self.reference])]

    def _shown(self, row: Row) -> Mapping[str, str]:
        return row.values

    def _references(self, row: Row) -> tuple[str, ...]:
        if self.reference is None:
            return ()
        if not row[self.reference].strip():
            raise ValueError(f"{row.where}: the reference in column {self.reference!r} is empty")
        return (row[self.reference],)

    def batch(self, model: LoadedModel, split: str, seed: int) -> TokenBatch:
        if self._scorer is not None:
            self._scorer.load()  # one that may not be called is refused now
        return super().batch(model, split, seed)

    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        found = super().scores(log_probs, batch)
        return found if self.reference is not None else {"examples": found["examples"]}

    def score_texts(self, texts: Sequence[str], batch: TokenBatch) -> Corpus:
        if self._scorer is None:
            return lambda numbers: {}
        references = None if self.reference is None else [asked.references[0] for asked in batch.asked]
        scores = self._scorer([asked.prompt for asked in batch.asked], list(texts), references)
        return lambda numbers: {"score": float(scores[numbers].mean())}

    def summary(self) -> dict[str, Any]:
        found = super().summary()
        if self.reference is None:
            del found["loss"]
        return found if self._scorer is None else {**found, "scorer": self._scorer.function}
