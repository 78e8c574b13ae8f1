"""Forgetting: what a moved model loses at another task.

    forgetting(x) = loss of the other task at x − its loss at x = 0,   in that task's unit,

read on the other task's search split: what continual learning calls forgetting (Chaudhry et al. 2018,
arXiv:1801.10112), of losses instead of accuracies. It is 0 at x = 0, and negative where what helps one task helps the
other too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from llm_problem.evaluation import SerialEvaluator
from llm_problem.evaluation.remembering import versions
from llm_problem.tasks import Data, LanguageModelling, Task
from llm_problem.tasks.batch import TokenBatch

WINDOW, WINDOWS = 32, 16  # of the running text that stands for everything else where no task is named


def default_other_task() -> Task:
    """Language modelling on the embedded prose."""
    return LanguageModelling(Data.of("embedded:prose"), window=WINDOW, search_size=WINDOWS)


class Forgetting:
    """x → forgetting; what it reads is made when it is first asked for, and then kept.

    Args:
        evaluator: gives log-probabilities.
        task: the other task.
        batch: gives its search split, the same object each time.
    """

    def __init__(self, evaluator: SerialEvaluator, task: Task, batch: Callable[[], TokenBatch]) -> None:
        self._evaluator, self._task, self._batch = evaluator, task, batch
        self._kept: tuple[float, list[tuple[int, int]]] | None = None  # the loss at x = 0, of weights of these versions

    def values(self, X: np.ndarray) -> np.ndarray:
        """Forgetting (n,) float64 of candidates X (n, d), finite; NaN where the model's logits are."""
        return self._losses(X) - self._pretrained() if len(X) else np.empty(0)

    def differentiable(self, x: torch.Tensor) -> torch.Tensor:
        """The same for one x (d,), a scalar that gradients flow through to x."""
        batch = self._batch()
        return self._task.loss(self._evaluator.differentiable_log_probs(x, batch), batch) - self._pretrained()

    def _losses(self, X: np.ndarray) -> np.ndarray:
        batch = self._batch()
        found = self._evaluator.log_probs(X, batch)
        return np.array([float(self._task.loss(torch.from_numpy(log_probs), batch)) for log_probs in found])

    def _pretrained(self) -> float:
        now = versions(self._evaluator.model.model.parameters())
        if self._kept is None or self._kept[1] != now:
            self._kept = float(self._losses(np.zeros((1, self._evaluator.subspace.dimension)))[0]), now
        return self._kept[0]
