"""What a candidate writes after the prompts of a batch, and what the task's metrics say of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llm_problem.evaluation import SerialEvaluator
from llm_problem.generation.generator import Text, TextGenerator
from llm_problem.statistics import Corpus
from llm_problem.tasks.base import Task
from llm_problem.tasks.batch import TokenBatch


class Written:
    """x → texts and their metrics, written anew each time they are asked for.

    Args:
        evaluator: puts a candidate's weights in place.
        task: says how texts are written and scored.
        memory: bytes that may be kept of prompts, None for the generator's own limit.
    """

    def __init__(self, evaluator: SerialEvaluator, task: Task, memory: int | None = None) -> None:
        self._evaluator, self._task, self._memory = evaluator, task, memory
        self._generator: TextGenerator | None = None

    def texts(self, x: np.ndarray, batch: TokenBatch) -> list[Text] | None:
        """What the model at a finite x (1, d) writes; None where its logits are not numbers.

        Raises:
            ValueError: the task looks at no texts, or a prompt that fills the model's context.
        """
        decoding = self._task.decoding
        if decoding is None:
            raise ValueError(f"the task {self._task.kind} looks at no texts: none are written for it")
        if self._generator is None:
            self._generator = TextGenerator(self._evaluator, self._memory)
        return self._generator.texts(x, batch, decoding)

    def corpus(self, x: np.ndarray, batch: TokenBatch) -> Corpus:
        """Numbers (m,) of some examples → the metrics of their texts, NaN where the model's logits are not numbers."""
        if not self._task.text_metrics:
            return lambda numbers: {}
        texts = self.texts(x, batch)
        if texts is None:
            return lambda numbers: dict.fromkeys(self._task.text_metrics, float("nan"))
        return self._task.score_texts([text.text for text in texts], batch)

    def scores(self, x: np.ndarray, batch: TokenBatch) -> Mapping[str, float]:
        """The metrics of all texts of a batch."""
        return self.corpus(x, batch)(np.arange(batch.examples))
