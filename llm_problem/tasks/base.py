"""A task: which sequences a model reads for a split, and what loss its log-probabilities give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from llm_problem.generation.decoding import Decoding
from llm_problem.models.loading import LoadedModel
from llm_problem.statistics import Corpus, Scored
from llm_problem.tasks.batch import TokenBatch


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Base of all descriptions of a task; frozen, JSON and back."""

    kind: ClassVar[str] = ""
    objectives: ClassVar[tuple[str, ...]] = ("loss",)
    """What can be minimised; every name is a key of what `scores` returns, or one of `text_metrics`."""
    text_metrics: ClassVar[tuple[str, ...]] = ()
    """Metrics of texts that the model writes after the prompts; the others are of log-probabilities."""
    unit: ClassVar[str] = ""
    """Of the loss."""
    headline: ClassVar[tuple[str, ...]] = ("loss",)
    """The metrics that a table shows."""
    higher_is_better: ClassVar[tuple[str, ...]] = ()
    """Metrics of which more is better; of all others less is."""
    amount: ClassVar[float] = 0.2
    """Nats of KL divergence by which one unit of x moves the model's predictions (`llm_problem.calibration`); chosen by
    `python -m llm_problem_adapters.experiments.step_sizes`."""

    added: ClassVar[tuple[str, ...]] = ()
    """Fields that came after the first release: a description leaves them out where they have their default, so that
    the fingerprints of older problems stay what they were."""

    @abstractmethod
    def batch(self, model: LoadedModel, split: str, seed: int) -> TokenBatch:
        """The examples of a split as token sequences for this model; `seed` draws the search examples.

        Raises:
            ValueError: data, template or labels that do not work with this model, saying which and why.
        """

    @abstractmethod
    def loss(self, log_probs: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """The loss, a scalar to be minimised, from the entries' log-probabilities (E,) float64; differentiable."""

    @abstractmethod
    def example_losses(self, log_probs: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        """Losses (N,) of the examples and their weights (N,): the loss is Σ weight · loss / Σ weight."""

    @abstractmethod
    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        """Every metric of the task, by name, from the entries' log-probabilities (E,) float64."""

    def scored(self, log_probs: np.ndarray, batch: TokenBatch) -> Scored:
        """The metrics example by example, from which standard errors and intervals are drawn."""
        losses, weights = self.example_losses(log_probs, batch)
        return Scored({"loss": losses}, weights, groups=batch.group, higher=frozenset(self.higher_is_better))

    @property
    def decoding(self) -> Decoding | None:
        """How texts are written; None for a task that looks at none."""
        return None

    def score_texts(self, texts: Sequence[str], batch: TokenBatch) -> Corpus:
        """From texts (N,) written after the prompts of a batch: numbers (m,) of some examples → their `text_metrics`.

        Raises:
            ValueError: what a user's own scorer returned does not do.
        """
        raise NotImplementedError(f"{self.kind} looks at no texts")

    @property
    def signatures(self) -> dict[str, str]:
        """Metric → how it is made, for those of which there are several ways (BLEU, F1, a scorer of a user's)."""
        return {}

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """Functions of a user's that the task calls; a pickle takes them along by name."""
        return ()

    @property
    def nameless(self) -> str:
        """What of the task a description cannot name, so that no other process could find it; empty for nothing."""
        return ""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What a card says of the task: data, prompt, labels, sizes."""


def check_sizes(task: Any, *others: str) -> None:
    """Make `search_size`, `dev_size`, `test_size` and the fields named in `others` None or an int of at least 1.

    Raises:
        ValueError: one is neither.
    """
    for name in ("search_size", "dev_size", "test_size", *others):
        size = getattr(task, name)
        if size is not None and (isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1):
            raise ValueError(f"{name} must be an integer of at least 1, or None, got {size!r}")
        # A numpy integer would not survive JSON.
        object.__setattr__(task, name, None if size is None else int(size))


def check_flags(task: Any, *names: str) -> None:
    """Raise ValueError where one of these fields is neither True nor False."""
    for name in names:
        if not isinstance(getattr(task, name), bool):
            raise ValueError(f"{name} must be True or False, got {getattr(task, name)!r}")
