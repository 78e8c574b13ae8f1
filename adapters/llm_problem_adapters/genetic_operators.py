"""Genetic operators (Holland, 1975; De Jong, 1975; Schwefel, 1981; Syswerda, 1989; Eshelman and Schaffer, 1993; Deb and
Agrawal, 1995): selection, crossover, mutation.

Sources: J. Holland, *Adaptation in Natural and Artificial Systems* (single-point crossover); K. De Jong, *An
analysis of the behavior of a class of genetic adaptive systems* (several cut points); G. Syswerda, *Uniform crossover
in genetic algorithms*, ICGA 1989; H.-P. Schwefel, *Numerical Optimization of Computer Models* (Gaussian
mutation of real genes); L. Eshelman, J. Schaffer, *Real-coded genetic algorithms and interval-schemata*, FOGA 2, 1993
(blend crossover, BLX-α); K. Deb, R. Agrawal, *Simulated binary crossover for continuous search space*, Complex Systems
9, 1995.

Pure functions on arrays: every random number comes from the generator that is passed, and no input is changed
but an `out` that was given. Rows are handled one at a time, so that beside the result only vectors of d
elements are made: with d = 10⁶ and 50 rows one (n, d) array is 400 MB.

Symbols: d genes, k parents, m pairs, n individuals. Losses are minimised.
"""

from __future__ import annotations

import numpy as np


def top_k(losses: np.ndarray, k: int) -> np.ndarray:
    """The k lowest losses, best first; of equal ones the one that stands first.

    Args:
        losses: (n,), lower is better; +inf (and NaN) come last.
        k: 1 ≤ k ≤ n.

    Returns:
        Indices (k,).

    Raises:
        ValueError: k out of its range.
    """
    losses = np.asarray(losses)
    if not 1 <= k <= len(losses):
        raise ValueError(f"k must be between 1 and the number of losses, {len(losses)}; got {k}")
    return np.argsort(losses, kind="stable")[:k]


def random_pairs(k: int, m: int, rng: np.random.Generator) -> np.ndarray:
    """m pairs of two different ones of k parents, uniformly; with k = 1 the one parent is paired with itself.

    Returns:
        Indices (m, 2) in 0..k−1.
    """
    first = rng.integers(k, size=m)  # ~ U{0..k−1}
    offset = rng.integers(1, k, size=m) if k > 1 else np.zeros(m, dtype=np.int64)  # ~ U{1..k−1}
    return np.stack([first, (first + offset) % k], axis=1)  # (m, 2)


def single_point_crossover(parents: np.ndarray, pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two children a pair, exchanging all genes after one random cut.

    The same as `multi_point_crossover` with one cut; see there.
    """
    return multi_point_crossover(parents, pairs, rng, cuts=1)


def multi_point_crossover(parents: np.ndarray, pairs: np.ndarray, rng: np.random.Generator, *, cuts: int) -> np.ndarray:
    """Two children a pair, exchanging every second one of the segments between random cuts.

    Args:
        parents: (k, d).
        pairs: (m, 2) indices of parents.
        rng: draws `cuts` different places a pair, uniformly among the d − 1 between two genes, so that no
            segment is empty. Where there are fewer places, all are cut; a single gene is never cut, and
            passes unchanged.
        cuts: at least 1.

    Returns:
        Children (2m, d): rows 2i and 2i + 1 are the complementary children of pair i; the first begins with
        genes of the pair's first parent.

    Raises:
        ValueError: fewer cuts than 1, or pairs of another shape.
    """
    if cuts < 1:
        raise ValueError(f"cuts must be at least 1, got {cuts}")
    children = _first_as_parents(parents, pairs)
    d = parents.shape[1]
    for i, (first, second) in enumerate(pairs):
        places = 1 + rng.choice(d - 1, size=min(cuts, d - 1), replace=False) if d > 1 else np.zeros(0, dtype=int)
        edges = [*np.sort(places), d]
        for start, stop in zip(edges[0::2], edges[1::2], strict=False):  # every second segment, from the first cut
            children[2 * i, start:stop] = parents[second, start:stop]
            children[2 * i + 1, start:stop] = parents[first, start:stop]
    return children


def uniform_crossover(
    parents: np.ndarray, pairs: np.ndarray, rng: np.random.Generator, *, rate: float = 0.5
) -> np.ndarray:
    """Two children a pair, exchanging each gene independently with probability `rate`.

    Args:
        parents: (k, d).
        pairs: (m, 2) indices of parents.
        rng: draws which genes are exchanged.
        rate: in [0, 1]; 0.5 mixes most.

    Returns:
        Children (2m, d), ordered as those of `multi_point_crossover`.

    Raises:
        ValueError: rate out of its range, or pairs of another shape.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    children = _first_as_parents(parents, pairs)
    for i, (first, second) in enumerate(pairs):
        exchanged = rng.random(parents.shape[1]) < rate  # (d,) ~ Bernoulli(rate)
        np.copyto(children[2 * i], parents[second], where=exchanged)
        np.copyto(children[2 * i + 1], parents[first], where=exchanged)
    return children


def blend_crossover(
    parents: np.ndarray, pairs: np.ndarray, rng: np.random.Generator, *, alpha: float = 0.5
) -> np.ndarray:
    """Two children a pair, each gene uniform between the parents' genes and `alpha` of their difference beyond either.

    Args:
        parents: (k, d).
        pairs: (m, 2) indices of parents.
        rng: draws the genes.
        alpha: α, not negative; at 0 no child leaves the box that its parents span, at (√3 − 1)/2 = 0.366 children have
            the variance of their parents.

    Returns:
        Children (2m, d): rows 2i and 2i + 1 are of pair i, drawn independently.

    Raises:
        ValueError: alpha out of its range, or pairs of another shape.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")
    children = _first_as_parents(parents, pairs)
    width, place = np.empty(parents.shape[1]), np.empty(parents.shape[1])
    for i, (first, second) in enumerate(pairs):
        np.subtract(parents[second], parents[first], out=width)  # (d,), of either sign
        for child in children[2 * i : 2 * i + 2]:
            rng.random(out=place)  # (d,) ~ U[0, 1)
            place *= 1 + 2 * alpha
            place -= alpha  # ~ U[−α, 1 + α)
            place *= width
            np.add(parents[first], place, out=child)
    return children


def simulated_binary_crossover(
    parents: np.ndarray, pairs: np.ndarray, rng: np.random.Generator, *, eta: float = 2.0
) -> np.ndarray:
    """Two children a pair, about the parents' mean: spread as a single-point crossover of binary numbers spreads them.

    Args:
        parents: (k, d).
        pairs: (m, 2) indices of parents.
        rng: draws a spread for each gene.
        eta: distribution index, not negative; the larger, the nearer the children are to their parents.

    Returns:
        Children (2m, d): rows 2i and 2i + 1 are of pair i, and have its mean.

    Raises:
        ValueError: eta out of its range, or pairs of another shape.
    """
    if not eta >= 0:
        raise ValueError(f"eta must not be negative, got {eta}")
    children = _first_as_parents(parents, pairs)
    for i, (first, second) in enumerate(pairs):
        half = rng.random(parents.shape[1])  # (d,) u ~ U[0, 1), then β, then half the children's difference
        half *= 2
        beyond = half > 1
        np.subtract(2, half, out=half, where=beyond)
        np.divide(1, half, out=half, where=beyond)
        half **= 1 / (eta + 1)  # β = (2u)^(1/(η+1)) up to u = 1/2, then (1/(2(1 − u)))^(1/(η+1)); Deb & Agrawal 1995
        half *= (parents[first] - parents[second]) / 2
        mean = (parents[first] + parents[second]) / 2
        np.add(mean, half, out=children[2 * i])
        np.subtract(mean, half, out=children[2 * i + 1])
    return children


def gaussian_mutation(
    X: np.ndarray,
    std: float | np.ndarray,
    rng: np.random.Generator,
    *,
    probability: float = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Add N(0, std²) to each gene with the given probability.

    Args:
        X: (n, d), left unchanged unless it is `out`.
        std: strength, in the units of X: a number or (d,), not negative.
        rng: draws the noise and, below probability 1, which genes are mutated.
        probability: in [0, 1], of each gene by itself.
        out: (n, d) float64 to write to, X itself for a mutation in place; None makes a new array.

    Returns:
        (n, d) float64, `out` where it was given. Bounds are the caller's matter.

    Raises:
        ValueError: probability or std out of its range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], got {probability}")
    if not np.all(np.asarray(std) >= 0):
        raise ValueError("std must not be negative")
    mutated = np.empty(X.shape) if out is None else out
    for row, target in zip(X, mutated, strict=True):
        noise = rng.standard_normal(len(row))  # (d,) ~ N(0, I)
        noise *= std
        if probability < 1:
            noise *= rng.random(len(row)) < probability  # (d,) ~ Bernoulli(probability)
        np.add(row, noise, out=target)
    return mutated


def _first_as_parents(parents: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Children (2m, d) that are still copies of their parents: rows 2i and 2i + 1 of the two of pair i."""
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must have shape (m, 2), got {pairs.shape}")
    return parents[pairs.ravel()]
