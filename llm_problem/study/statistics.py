"""Statistics of comparisons: ranks, effect sizes and the correction for several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class RankTest:
    """What a Mann–Whitney test of two samples found."""

    p: float
    """Two-sided p-value."""
    effect: float
    """Vargha and Delaney's A: the probability that a value of the first sample is the smaller one, ties counted half.
    1 and 0 are complete separation, 0.5 is none (A. Vargha, H. Delaney, 2000)."""


def rank_test(first: Any, second: Any) -> RankTest:
    """Mann and Whitney's test that neither of two samples tends to smaller values.

    Args:
        first: (n,) values, such as the losses of an optimizer's runs; one that is not finite is the largest.
        second: (m,) those of another.

    Raises:
        ValueError: a sample of fewer than two.
    """
    from scipy.stats import mannwhitneyu

    samples = [np.nan_to_num(np.asarray(s, dtype=float), nan=np.inf) for s in (first, second)]
    if any(s.ndim != 1 or s.size < 2 for s in samples):
        raise ValueError(f"two samples of two values or more are compared, got shapes {[s.shape for s in samples]}")
    u, p = mannwhitneyu(*samples, alternative="two-sided")  # u counts the pairs in which the first is larger
    return RankTest(float(p), 1 - float(u) / (samples[0].size * samples[1].size))


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values (k,) corrected for k tests at once, in their order (S. Holm, 1979)."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
