"""Open generation: the model goes on from a prompt, and its text is scored by references or by a function of yours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.generative import GenerativeTask
from llm_problem.tasks.rows import Row


@dataclass(frozen=True)
class Generation(GenerativeTask):
    """Write a text after a prompt.

    Args:
        data: the examples; also the source of dev and test where those are not given.
        prompt: template with columns of the data by name, such as "Write a poem about {subject}.\\n".
        reference: the column of a text that would do, for the objective "loss"; None where there is none.

    Other arguments are those of `GenerativeTask`. There must be a reference or a `scorer`, and both may be.

    Raises:
        ValueError: neither, a template without its columns, a row with an empty reference.
    """

    kind: ClassVar[str] = "generation"

    data: Data
    prompt: str
    reference: str | None = None

    def __post_init__(self) -> None:
        self._check()
        if self.reference is not None:
            return
        if self.scorer is None:
            raise ValueError("generation needs something to go by: a reference column, or a scorer")
        for name in ("objectives", "headline"):
            object.__setattr__(self, name, ("score",))

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

    def _for_scorer(self, batch: TokenBatch) -> list[Any] | None:
        return None if self.reference is None else super()._for_scorer(batch)

    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        found = super().scores(log_probs, batch)
        return found if self.reference is not None else {"examples": found["examples"]}

    def summary(self) -> dict[str, Any]:
        found = super().summary()
        if self.reference is None:
            del found["loss"]
        return found if self._scorer is None else {**found, "scorer": self._scorer.function}
