"""Translation: the model reads a sentence and writes it in another language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llm_problem.statistics import Corpus
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.generative import GenerativeTask
from llm_problem.tasks.overlap import TOKENIZERS, corpus_scores, signatures
from llm_problem.tasks.rows import Row, several


@dataclass(frozen=True)
class Translation(GenerativeTask):
    """Translate a sentence.

    Args:
        data: the examples; also the source of dev and test where those are not given.
        source, target: names of the columns.
        prompt: template with `{source}`, and other columns of the data by name. The default is what translation models
            read; a causal model needs to be told what is wanted, such as "English: {source}\\nGerman:".

        bleu_tokenizer: how BLEU divides texts into words: sacrebleu's default "13a" for languages with spaces, "zh" for
            Chinese, "ja-mecab" and "ko-mecab" (which need sacrebleu[ja], sacrebleu[ko]) for Japanese and Korean, "char"
            for letters, "intl" or "none". chrF needs none.

    Other arguments are those of `GenerativeTask`. BLEU and chrF (0 to 100, of the whole split) are those of sacrebleu,
    whose signatures stand in a problem's card and with every estimate.

    Raises:
        ValueError: a template without its columns, another tokenizer, a row with an empty source or target.
    """

    kind: ClassVar[str] = "translation"
    objectives: ClassVar[tuple[str, ...]] = ("loss", "1-bleu", "1-chrf")
    text_metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf", "1-bleu", "1-chrf")
    headline: ClassVar[tuple[str, ...]] = ("loss", "bleu", "chrf")
    higher_is_better: ClassVar[tuple[str, ...]] = ("bleu", "chrf")
    added: ClassVar[tuple[str, ...]] = ("scorer", "bleu_tokenizer")

    data: Data
    source: str
    target: str
    prompt: str = "{source}"
    stop: tuple[str, ...] = field(default=("\n",), kw_only=True)
    bleu_tokenizer: str = field(default="13a", kw_only=True)

    def __post_init__(self) -> None:
        self._check()
        if self.bleu_tokenizer not in TOKENIZERS:
            raise ValueError(f"bleu_tokenizer must be one of {', '.join(TOKENIZERS)}, got {self.bleu_tokenizer!r}")
        self._template.require("source")

    def _columns(self) -> Sequence[str]:
        return [self.source, self.target, *(name for name in self._template.columns if name != "source")]

    def _shown(self, row: Row) -> Mapping[str, str]:
        return {**row.values, "source": row[self.source]}

    def _content(self, row: Mapping[str, str]) -> str:
        return row[self.source]

    def _references(self, row: Row) -> tuple[str, ...]:
        for column in (self.source, self.target):
            if not row[column].strip():
                raise ValueError(f"{row.where}: column {column!r} is empty")
            if several(row[column]):
                raise ValueError(
                    f"{row.where}: column {column!r} has a list, {row[column][:60]}, and a translation has one "
                    "reference: give one of them"
                )
        return (row[self.target],)

    @property
    def signatures(self) -> dict[str, str]:
        return {**signatures(self.bleu_tokenizer), **super().signatures}

    def _overlaps(self, texts: Sequence[str], batch: TokenBatch) -> Corpus:
        scores = corpus_scores(texts, [asked.references[0] for asked in batch.asked], self.bleu_tokenizer)

        def corpus(numbers: np.ndarray) -> Mapping[str, float]:
            bleu, chrf = (scores[name](numbers) for name in ("bleu", "chrf"))
            return {"bleu": bleu, "chrf": chrf, "1-bleu": 1 - bleu / 100, "1-chrf": 1 - chrf / 100}

        return corpus
