"""Question answering: the model reads a passage and a question and writes the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from llm_problem.statistics import Corpus
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.generative import GenerativeTask
from llm_problem.tasks.rows import Row
from llm_problem.tasks.squad import best, exact_match, f1

RULES = "SQuAD v1.1: lower case, no punctuation, no articles; best of the answers; from 0 to 1"


@dataclass(frozen=True)
class QuestionAnswering(GenerativeTask):
    """Answer a question about a passage.

    Args:
        data: the examples; also the source of dev and test where those are not given.
        context, question: names of the columns; a `context` of None is for questions without a passage.
        answers: the column of the right answers: a text, a list (in a CSV file as JSON), or a mapping with the list as
            its "text", as SQuAD has them. The loss is that of the first; exact match and F1 take the best.
        prompt: template with `{context}` and `{question}`, and other columns of the data by name.
        answer_in_context: whether every answer must stand in the passage, letter for letter.
        group: what is never divided between splits, and drawn together for intervals; by default the passage.

    Other arguments are those of `GenerativeTask`.

    Raises:
        ValueError: a template without its columns, a row without an answer, or with one that is not in its passage.
    """

    kind: ClassVar[str] = "question-answering"
    objectives: ClassVar[tuple[str, ...]] = ("loss", "1-f1", "1-em")
    text_metrics: ClassVar[tuple[str, ...]] = ("f1", "exact_match", "1-f1", "1-em")
    headline: ClassVar[tuple[str, ...]] = ("loss", "f1", "exact_match")
    higher_is_better: ClassVar[tuple[str, ...]] = ("f1", "exact_match")
    added: ClassVar[tuple[str, ...]] = ("scorer",)

    data: Data
    context: str | None
    question: str
    answers: str
    prompt: str = "{context}\nQuestion: {question}\nAnswer:"
    answer_in_context: bool = True
    max_new_tokens: int = field(default=32, kw_only=True)
    stop: tuple[str, ...] = field(default=("\n",), kw_only=True)

    def __post_init__(self) -> None:
        if self.group is None and self.context is not None:
            object.__setattr__(self, "group", self.context)
        self._check()
        self._template.require(*([] if self.context is None else ["context"]), "question")

    def _columns(self) -> Sequence[str]:
        own = {"question": self.question, **({} if self.context is None else {"context": self.context})}
        others = [name for name in self._template.columns if name not in own]
        return [*own.values(), self.answers, *others]

    def _shown(self, row: Row) -> Mapping[str, str]:
        context = {} if self.context is None else {"context": row[self.context]}
        return {**row.values, **context, "question": row[self.question]}

    def _content(self, row: Mapping[str, str]) -> str:
        return row[self.question if self.context is None else self.context]

    def _references(self, row: Row) -> tuple[str, ...]:
        found = answers_in(row[self.answers])
        if not found or not all(answer.strip() for answer in found):
            raise ValueError(
                f"{row.where}: column {self.answers!r} has no answer, or an empty one: {row[self.answers]!r}"
            )
        if self.answer_in_context and self.context is not None:
            for answer in found:
                if answer not in row[self.context]:
                    raise ValueError(
                        f"{row.where}: the answer {answer!r} does not stand in its passage; where it need not, say "
                        "answer_in_context=False"
                    )
        return found

    @property
    def signatures(self) -> dict[str, str]:
        return {**dict.fromkeys(("f1", "exact_match", "1-f1", "1-em"), RULES), **super().signatures}

    def _for_scorer(self, batch: TokenBatch) -> list[Any] | None:
        return [list(asked.references) for asked in batch.asked]

    def _overlaps(self, texts: Sequence[str], batch: TokenBatch) -> Corpus:
        pairs = list(zip(texts, batch.asked, strict=True))
        overlap = np.array([best(f1, text, asked.references) for text, asked in pairs])
        exact = np.array([best(exact_match, text, asked.references) for text, asked in pairs])

        def corpus(numbers: np.ndarray) -> Mapping[str, float]:
            f, em = float(overlap[numbers].mean()), float(exact[numbers].mean())
            return {"f1": f, "exact_match": em, "1-f1": 1 - f, "1-em": 1 - em}

        return corpus


def answers_in(value: str) -> tuple[str, ...]:
    """The answers that a column's value holds: itself, or the texts of a JSON list, or of a mapping's "text"."""
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        return (value,)
    if isinstance(found, dict):
        texts = found.get("text")
        found = [texts] if isinstance(texts, str) else texts
    if not isinstance(found, list) or (found and not any(isinstance(text, str) for text in found)):
        return (value,)  # such as a number, or a text in brackets
    # What is no text becomes an empty one, which is refused with its row.
    return tuple(dict.fromkeys(text if isinstance(text, str) else "" for text in found))
