"""BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus, by sacrebleu (Post 2018, arXiv:1804.08771)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none")
"""Those of sacrebleu's that download nothing."""


def corpus_scores(
    texts: Sequence[str], references: Sequence[str], tokenizer: str = TOKENIZERS[0]
) -> dict[str, Callable[[np.ndarray], float]]:
    """For "bleu" and "chrf": numbers (m,) of some of the texts → their score, 0 to 100.

    What a sentence contributes is counted once, so that the scores of many draws of sentences are quick.

    Raises:
        ImportError: sacrebleu, or what its tokenizer needs, is not installed.
    """
    found: dict[str, Callable[[np.ndarray], float]] = {}
    for name, metric in _metrics(tokenizer).items():
        counts = np.array(metric._extract_corpus_statistics(list(texts), [list(references)]))  # (N, counts)
        found[name] = partial(_score, metric, counts)
    return found


def _score(metric: Any, counts: np.ndarray, numbers: np.ndarray) -> float:
    return float(metric._compute_score_from_stats(counts[numbers].sum(axis=0).tolist()).score)


def signatures(tokenizer: str = TOKENIZERS[0]) -> dict[str, str]:
    """What sacrebleu says of how each score, and what is minimised of it, is made; empty where it is not installed."""
    try:
        metrics = _metrics(tokenizer)
    except ImportError:
        return {}
    found = {}
    for name, metric in metrics.items():
        metric.corpus_score(["a"], [["a"]])  # it learns how many references there are
        found[name] = found[f"1-{name}"] = str(metric.get_signature())
    return found


def _metrics(tokenizer: str) -> dict[str, Any]:
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ImportError("BLEU and chrF need sacrebleu: pip install 'llm-problem[translation]'") from error
    try:
        return {"bleu": BLEU(tokenize=tokenizer), "chrf": CHRF()}
    except RuntimeError as error:
        raise ImportError(f"the tokenizer {tokenizer!r} is not there: {error}") from error
