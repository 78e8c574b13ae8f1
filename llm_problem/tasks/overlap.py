"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus, by sacrebleu (Post 2018, arXiv:1804.08771)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np


def corpus_scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, Callable[[np.ndarray], float]]:
    """For "bleu" and "chrf": numbers (m,) of some of the texts → their score, 0 to 100.

    What a sentence contributes is counted once, so that the scores of many draws of sentences are quick.

    Raises:
        ImportError: sacrebleu is not installed.
    """
    found: dict[str, Callable[[np.ndarray], float]] = {}
    for name, metric in _metrics().items():
        counts = np.array(metric._extract_corpus_statistics(list(texts), [list(references)]))  # (N, counts)
        found[name] = partial(_score, metric, counts)
    return found


def _score(metric: Any, counts: np.ndarray, numbers: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(counts[numbers].sum(axis=0).tolist()).score)


def signatures() -> dict[str, str]:
    """What sacrebleu says of how each score is made; empty where it is not installed."""
    try:
        metrics = _metrics()
    except ImportError:
        return {}
    found = {}
    for name, metric in metrics.items():
        metric.corpus_score(["a"], [["a"]])  # it learns how many references there are
        found[name] = str(metric.get_signature())
    return found


def _metrics() -> dict[str, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ImportError("BLEU and chrF need sacrebleu: pip install 'llm-problem[translation]'") from error
    return {"bleu": BLEU(), "chrf": CHRF()}
