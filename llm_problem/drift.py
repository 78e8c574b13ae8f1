"""Drift: how far a moved model's predictions are from the pretrained model's on text that the task is not about.

    drift(x) = mean over places of KL(p₀ ‖ p_x) = Σ_v p₀(v) (log p₀(v) − log p_x(v)),   in nats per token,

over the whole vocabulary, p₀ being the model at x = 0: the quantity that RL from human feedback penalises to keep a
model near its start (Stiennon et al. 2020, arXiv:2009.01325, with the two distributions the other way round; Ziegler
et al. 2019, arXiv:1909.08593). It is 0 at x = 0, never negative, and infinite where the moved model rules out a token
that the pretrained one does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from llm_problem.evaluation import SerialEvaluator
from llm_problem.evaluation.remembering import versions
from llm_problem.tasks.batch import TokenBatch

BYTES = 64 << 20  # of log-probabilities (n, places, V) held at once; a vocabulary of 49,152 takes 6 MiB a candidate


@dataclass(frozen=True)
class _Pretrained:
    """The model at x = 0 at every place: log p₀ and p₀, each (places, V), and the weights' versions they belong to."""

    log_p: torch.Tensor
    p: torch.Tensor
    versions: list[tuple[int, int]]


class Drift:
    """x → drift; what it reads is made when it is first asked for, and then kept.

    Args:
        evaluator: gives log-probabilities.
        batch: gives the places of the neutral text (see `llm_problem.tasks.neutral`), the same object each time.
    """

    def __init__(self, evaluator: SerialEvaluator, batch: Callable[[], TokenBatch]) -> None:
        self._evaluator, self._batch = evaluator, batch
        self._kept: _Pretrained | None = None

    def values(self, X: np.ndarray) -> np.ndarray:
        """Drift (n,) float64 in nats per token of candidates X (n, d), finite; NaN where the model's logits are."""
        if not len(X):
            return np.empty(0)
        batch, pretrained = self._batch(), self._pretrained()
        found = np.empty(len(X))
        at_once = max(1, BYTES // (8 * batch.entries))
        for start in range(0, len(X), at_once):
            values = self._evaluator.log_probs(X[start : start + at_once], batch)
            # One by one, so that a sum's last bits do not depend on how many there are.
            for i, log_p in enumerate(values, start=start):
                found[i] = divergence(pretrained.log_p, pretrained.p, _places(torch.from_numpy(log_p), batch))
        return found

    def differentiable(self, x: torch.Tensor) -> torch.Tensor:
        """The same for one x (d,), a scalar that gradients flow through to x."""
        batch, pretrained = self._batch(), self._pretrained()
        log_p = _places(self._evaluator.differentiable_log_probs(x, batch).cpu(), batch)
        return divergence(pretrained.log_p, pretrained.p, log_p)

    def _pretrained(self) -> _Pretrained:
        now = versions(self._evaluator.model.model.parameters())
        if self._kept is None or self._kept.versions != now:
            batch = self._batch()
            zeros = np.zeros((1, self._evaluator.subspace.dimension))
            log_p = _normalised(_places(torch.from_numpy(self._evaluator.log_probs(zeros, batch)[0]), batch))
            self._kept = _Pretrained(log_p, log_p.exp(), now)
        return self._kept


def divergence(log_p0: torch.Tensor, p0: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """Mean over places of KL(p₀ ‖ p) in nats, a scalar, for log p₀, p₀ and log p, each (places, V) float64.

    log p is normalised once more: evaluators sum probabilities in single precision, and between sums that differ by
    1e-7 a divergence could come out negative.
    """
    # Where p₀ is 0 nothing is added, though log p₀ is −∞.
    terms = torch.where(p0 > 0, p0 * (log_p0 - _normalised(log_p)), 0.0)
    return terms.sum(dim=-1).mean().clamp_min(0.0)  # rounding


def _places(log_p: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
    """Entries (E,) as (places, V)."""
    return log_p.reshape(batch.examples, -1)


def _normalised(log_p: torch.Tensor) -> torch.Tensor:
    return log_p - torch.logsumexp(log_p, dim=-1, keepdim=True)
