"""Exact match and F1 of a short answer, as SQuAD v1.1 scores them (Rajpurkar et al. 2016, arXiv:1606.05250).

Both compare normalised answers: lower case, without punctuation, without the articles a, an and the, white space made
single. F1 is of the words that the two have in common, each as often as it stands in both. Against several right
answers the best counts. Here they are shares from 0 to 1; the official script prints per cent.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(answer: str) -> str:
    """An answer as it is compared."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, right: str) -> float:
    """1 where both are the same once normalised, else 0."""
    return float(normalised(answer) == normalised(right))


def f1(answer: str, right: str) -> float:
    """Harmonic mean of precision and recall of the words, 0 where none is shared."""
    given, wanted = normalised(answer).split(), normalised(right).split()
    shared = sum((Counter(given) & Counter(wanted)).values())
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0


def best(score: Callable[[str, str], float], answer: str, rights: Iterable[str]) -> float:
    """The score against the right answer that gives the most."""
    return max(score(answer, right) for right in rights)
