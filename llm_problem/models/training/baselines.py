"""Count models that a trained model has to beat, over the same tokens.

`KneserNeyBigram` predicts a token from the one before it; `NeighbourModel` predicts a token from the one
before it and the one after it.  Both are fitted on training tokens only: discounts and weights are tuned
on the development part with counts of the training part, and the counts are then taken from both.

Vocabularies here have about a thousand tokens, so that bigram tables are dense arrays.

Sources
-------
R. Kneser and H. Ney, "Improved backing-off for m-gram language modeling", ICASSP 1995.
S. F. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer
Speech & Language 13(4), 1999 (interpolated and modified Kneser-Ney, with a discount for each of the
counts one, two, and three or more).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

DISCOUNT_GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0)
_CHUNK = 2048


@dataclass(frozen=True)
class Discounts:
    """What is taken off a count of one, of two, and of three or more, in counts."""

    one: float = 0.7
    two: float = 1.0
    more: float = 1.3

    def of(self, counts: NDArray) -> Floats:
        """The discount for each of `counts`, of the same shape; never more than the count itself."""
        steps = np.array([0.0, min(self.one, 1.0), min(self.two, 2.0), min(self.more, 3.0)])
        return steps[np.minimum(counts, 3).astype(np.int64)]


def bigram_counts(tokens: Ids, vocabulary: int) -> Floats:
    """Counts of each pair of neighbours in `tokens` of shape (n,): (vocabulary, vocabulary), row first."""
    pairs = tokens[:-1] * vocabulary + tokens[1:]
    return np.bincount(pairs, minlength=vocabulary**2).reshape(vocabulary, vocabulary).astype(np.float64)


def kneser_ney_table(counts: Floats, discounts: Discounts) -> Floats:
    """Interpolated Kneser-Ney probabilities p(column | row) from bigram counts, (vocabulary, vocabulary).

    The lower order is the continuation distribution (in how many contexts a token was seen), itself
    discounted and interpolated with the uniform one, so that every probability is positive.
    """
    vocabulary = len(counts)
    kept, freed = _discounted((counts > 0).sum(axis=0)[None, :], discounts)
    continuation = kept[0] + freed[0] / vocabulary
    kept, freed = _discounted(counts, discounts)
    return kept + freed * continuation


def _discounted(counts: NDArray, discounts: Discounts) -> tuple[Floats, Floats]:
    """Discounted relative frequencies of each row, and the mass (rows, 1) that is left for a lower order."""
    taken = discounts.of(counts)
    totals = counts.sum(axis=1, keepdims=True)
    safe = np.maximum(totals, 1)
    return (counts - taken) / safe, np.where(totals > 0, taken.sum(axis=1, keepdims=True) / safe, 1.0)


@dataclass(frozen=True)
class KneserNeyBigram:
    """An interpolated modified Kneser-Ney bigram model.

    `table` has shape (vocabulary, vocabulary): `table[a, b]` is the probability that b follows a.
    """

    table: Floats
    discounts: Discounts

    @classmethod
    def fit(cls, train: Ids, dev: Ids, vocabulary: int) -> "KneserNeyBigram":
        """Tune the discounts on `dev` with the counts of `train`, then count both; ids of shape (n,)."""
        counts, unseen = bigram_counts(train, vocabulary), bigram_counts(dev, vocabulary)
        discounts = tune_discounts(counts, unseen)
        return cls(kneser_ney_table(counts + unseen, discounts), discounts)

    def nats(self, before: Ids, targets: Ids) -> Floats:
        """Negative log-probability in nats of each of `targets` after each of `before`, of the same shape."""
        return -np.log(self.table[before, targets])


def tune_discounts(counts: Floats, unseen: Floats, rounds: int = 2) -> Discounts:
    """The discounts by which `counts` predict the bigrams of `unseen` best, by a coordinate search."""
    where = np.nonzero(unseen)

    def cost(discounts: Discounts) -> float:
        return float(-(unseen[where] * np.log(kneser_ney_table(counts, discounts)[where])).sum())

    best = Discounts()
    for _ in range(rounds):
        for name in ("one", "two", "more"):
            best = min((replace(best, **{name: value}) for value in DISCOUNT_GRID), key=cost)
    return best


@dataclass(frozen=True)
class _Contexts:
    """Sparse counts of a middle token given its two neighbours, sorted by the pair of neighbours.

    `pairs` (p,) are the codes left * vocabulary + right; the tokens seen between pair i are
    `middles[starts[i]:starts[i + 1]]`, with their `counts`.
    """

    pairs: Ids
    starts: Ids
    middles: Ids
    counts: Ids

    @classmethod
    def of(cls, tokens: Ids, vocabulary: int) -> "_Contexts":
        codes = (tokens[:-2] * vocabulary + tokens[2:]) * vocabulary + tokens[1:-1]
        unique, counts = np.unique(codes, return_counts=True)
        pairs, starts = np.unique(unique // vocabulary, return_index=True)
        return cls(pairs, np.append(starts, len(unique)), unique % vocabulary, counts)

    def rows(self, left: Ids, right: Ids, vocabulary: int) -> Floats:
        """Dense counts (queries, vocabulary) for each pair of neighbours."""
        wanted = left * vocabulary + right
        rows = np.zeros((len(wanted), vocabulary))
        found = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        for row in np.nonzero(self.pairs[found] == wanted)[0]:
            span = slice(self.starts[found[row]], self.starts[found[row] + 1])
            rows[row, self.middles[span]] = self.counts[span]
        return rows


@dataclass(frozen=True)
class NeighbourWeights:
    """How the parts of a `NeighbourModel` are weighed.

    `left`, `right`, `back` and `single` are the exponents (no unit) in the lower order, which is
    p(t | l)^left * p(r | t)^right * p(t | r)^back * p(t)^single normalised over t; `discounts` are those of
    the counts of t between l and r, which the lower order smooths.
    """

    left: float = 1.0
    right: float = 0.5
    back: float = 0.5
    single: float = -0.5
    discounts: Discounts = Discounts(0.9, 1.3, 1.75)


@dataclass(frozen=True)
class _Tables:
    """Kneser-Ney tables forwards and backwards, (vocabulary, vocabulary), and unigram probabilities."""

    forward: Floats
    backward: Floats
    single: Floats

    @classmethod
    def of(cls, counts: Floats, forward: Discounts, backward: Discounts) -> "_Tables":
        single = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * len(counts))
        return cls(kneser_ney_table(counts, forward), kneser_ney_table(counts.T, backward), single)

    def logs(self, left: Ids, right: Ids) -> dict[str, Floats]:
        """Log-probabilities of every token, one array (queries, vocabulary) for each exponent's name."""
        return {
            "left": np.log(self.forward[left]),
            "right": np.log(self.forward.T[right]),
            "back": np.log(self.backward[right]),
            "single": np.log(self.single)[None, :],
        }


@dataclass(frozen=True)
class NeighbourModel:
    """p(token | left, right): discounted counts of the triple, interpolated with a product of bigram models.

    With exponents 1, 1, 0 and 0 the lower order is what a first-order Markov chain with Kneser-Ney
    transitions says of a token between two known ones.  Tuned exponents correct for what the chain misses;
    the product does better than a linear mixture of p(t | l), p(t | r) and p(t).
    """

    tables: _Tables
    contexts: _Contexts
    weights: NeighbourWeights

    @classmethod
    def fit(cls, train: Ids, dev: Ids, vocabulary: int, most: int = 3072) -> "NeighbourModel":
        """Tune on at most `most` tokens of `dev`, evenly spaced, then count `train` and `dev`; ids (n,)."""
        counts, unseen = bigram_counts(train, vocabulary), bigram_counts(dev, vocabulary)
        pair = tune_discounts(counts, unseen), tune_discounts(counts.T, unseen.T)
        draft = cls(_Tables.of(counts, *pair), _Contexts.of(train, vocabulary), NeighbourWeights())
        middles = np.unique(np.linspace(1, len(dev) - 2, min(most, len(dev) - 2)).astype(np.int64))
        weights = draft._tuned(dev[middles - 1], dev[middles], dev[middles + 1])
        contexts = _Contexts.of(np.concatenate([train, dev]), vocabulary)
        return cls(_Tables.of(counts + unseen, *pair), contexts, weights)

    def probabilities(self, left: Ids, right: Ids) -> Floats:
        """Distributions over the middle token, (queries, vocabulary), given neighbours (queries,)."""
        rows = self.contexts.rows(left, right, len(self.tables.single))
        kept, freed = _discounted(rows, self.weights.discounts)
        return kept + freed * _product(self.tables.logs(left, right), self.weights)

    def nats(self, left: Ids, targets: Ids, right: Ids) -> Floats:
        """Negative log-probability in nats of each of `targets` (queries,) between its neighbours."""
        result = np.empty(len(targets))
        for start in range(0, len(targets), _CHUNK):  # bounds the memory of the dense rows
            part = slice(start, start + _CHUNK)
            chosen = self.probabilities(left[part], right[part])
            result[part] = -np.log(chosen[np.arange(len(chosen)), targets[part]])
        return result

    def _tuned(self, left: Ids, targets: Ids, right: Ids) -> NeighbourWeights:
        """Weights that predict `targets` best: a pattern search over exponents, then a grid of discounts."""
        rows = self.contexts.rows(left, right, len(self.tables.single))
        # Single precision is enough to choose weights, and twice as fast.
        logs = {name: values.astype(np.float32) for name, values in self.tables.logs(left, right).items()}
        index = np.arange(len(targets))

        def cost(lower: Floats, kept: Floats, freed: Floats) -> float:
            return float(-np.log(kept[index, targets] + freed[:, 0] * lower[index, targets]).mean())

        start = NeighbourWeights()
        smoothing = _discounted(rows, start.discounts)
        best = _pattern_search(start, lambda trial: cost(_product(logs, trial), *smoothing))
        lower = _product(logs, best)
        for name in ("one", "two", "more"):
            trials = [replace(best, discounts=replace(best.discounts, **{name: d})) for d in DISCOUNT_GRID]
            best = min(trials, key=lambda trial: cost(lower, *_discounted(rows, trial.discounts)))
        return best


def _product(logs: Mapping[str, NDArray], weights: NeighbourWeights) -> Floats:
    """The normalised product of powers that `NeighbourWeights` describes, (queries, vocabulary)."""
    scores = sum(getattr(weights, name) * values for name, values in logs.items())
    assert not isinstance(scores, int)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return scores / scores.sum(axis=1, keepdims=True)


def _pattern_search(
    start: NeighbourWeights,
    cost: Callable[[NeighbourWeights], float],
    steps: tuple[float, ...] = (0.2, 0.1, 0.05),
) -> NeighbourWeights:
    """Exponents of least cost: each is moved by a step up or down while that helps, then by a finer step."""
    best, least = start, cost(start)
    for step in steps:
        moved = True
        while moved:
            moved = False
            for name in ("left", "right", "back", "single"):
                for change in (step, -step):
                    trial = replace(best, **{name: getattr(best, name) + change})
                    found = cost(trial)
                    if found < least - 1e-4:
                        best, least, moved = trial, found, True
    return best
