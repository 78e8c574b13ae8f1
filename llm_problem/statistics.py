"""Standard errors and intervals of metrics, and of the difference of two points, by the bootstrap (Efron 1979).

The examples of a split are drawn anew, with replacement, as many as there are, and each metric is taken again: its
spread over the draws is its standard error, and the middle 95% of it are the interval (percentile method). What two
points score is compared on the same draws, because both answered the same examples (paired; Koehn 2004, "Statistical
significance tests for machine translation evaluation", for metrics of a whole corpus such as BLEU). Examples that
belong together, such as questions about one passage, are drawn together (cluster bootstrap; Field & Welsh 2007).

Draws are seeded: the same numbers give the same interval. It says how the metric would vary with other examples of the
same kind; not how a search would come out with another seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

DRAWS = 2000
LEVEL = 0.95
FEWEST = 10  # units, below which a difference is never called a gain or a loss
_AT_ONCE = 1 << 22  # numbers of a block of draws
_STREAM = 0xB007  # keeps these draws apart from others with the same seed

Corpus = Callable[[np.ndarray], Mapping[str, float]]


@dataclass(frozen=True)
class Estimate:
    """A metric with what is known of it."""

    value: float  # on the examples there are
    error: float  # its standard error
    low: float  # ends of the interval
    high: float
    units: int  # drawn independently: examples, windows, or groups of examples
    signature: str = field(default="", kw_only=True)  # how it is made, where there are several ways (sacrebleu)

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.error:.2g}, 95% in [{self.low:.4g}, {self.high:.4g}]{self._signed}"

    @property
    def _signed(self) -> str:
        return f" ({self.signature})" if self.signature else ""


@dataclass(frozen=True)
class Comparison(Estimate):
    """What a metric changes by from a first point to a second, `after` − `before`; units are paired."""

    before: float
    after: float
    higher_is_better: bool = False

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0, and is of `FEWEST` units or more: that of a few is too narrow."""
        return self.units >= FEWEST and (self.low > 0 or self.high < 0)

    @property
    def verdict(self) -> str:
        """ "gain" or "loss" of the second point where its change is `clear`, else "no gain"."""
        if not self.clear:
            return "no gain"
        return "gain" if (self.value > 0) == self.higher_is_better else "loss"

    def __str__(self) -> str:
        return (
            f"{self.before:.4g} → {self.after:.4g}: {self.value:+.4g}, 95% in [{self.low:+.4g}, {self.high:+.4g}], "
            f"{self.verdict}{self._signed}"
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """What a point scored on N examples, in a form that can be drawn from.

    `means` has, for each metric that is a weighted mean over the examples, their scores (N,). `corpus` gives the
    metrics that are not from the numbers (m,) of some examples, in which one may occur several times. `groups` (N,)
    numbers what examples share; None or empty where each stands for itself.
    """

    means: Mapping[str, np.ndarray]
    weights: np.ndarray | None = None  # (N,), None for equal ones
    corpus: Corpus | None = None
    groups: np.ndarray | None = None
    higher: frozenset[str] = field(default_factory=frozenset)  # metrics of which more is better
    signatures: Mapping[str, str] = field(default_factory=dict)  # metric → how it is made


def bootstrap(scored: Scored, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Estimate]:
    """Every metric with its standard error and interval.

    Raises:
        ValueError: fewer than two independent units, or arrays that do not fit together.
    """
    values, drawn, units = _drawn([scored], draws, seed)
    signed = scored.signatures
    return {
        name: Estimate(value, *_spread(drawn[0][name]), units, signature=signed.get(name, ""))
        for name, value in values[0].items()
    }


def compare(before: Scored, after: Scored, *, draws: int = DRAWS, seed: int = 0) -> dict[str, Comparison]:
    """Every metric's change from a first point to a second, with the interval of the paired difference.

    Raises:
        ValueError: as for `bootstrap`, or points that were not scored on the same examples.
    """
    values, drawn, units = _drawn([before, after], draws, seed)
    found = {}
    for name in values[0]:
        first, second = values[0][name], values[1][name]
        spread = _spread(drawn[1][name] - drawn[0][name])
        signature = before.signatures.get(name, "")
        found[name] = Comparison(
            second - first, *spread, units, first, second, name in before.higher, signature=signature
        )
    return found


def _spread(drawn: np.ndarray) -> tuple[float, float, float]:
    """Standard error, and the ends of the interval, of the values (B,) of a metric over the draws."""
    if not np.isfinite(drawn).all():
        return float("nan"), float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.std(drawn, ddof=1)), float(low), float(high)


def _drawn(
    points: Sequence[Scored], draws: int, seed: int
) -> tuple[list[dict[str, float]], list[dict[str, np.ndarray]], int]:
    """For each point its metrics on all examples, and on the draws (B,) each; and how many units were drawn from."""
    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or draws < 2:
        raise ValueError(f"draws must be an integer of at least 2, got {draws!r}")
    number, count = _units(points)
    members = _members(number, count)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAM])))
    values = [_metrics(point, number, members, np.arange(count)[None]) for point in points]
    block = max(1, min(draws, _AT_ONCE // count))
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in points]
    for start in range(0, draws, block):
        picked = rng.integers(count, size=(min(block, draws - start), count))
        for k, point in enumerate(points):
            found[k].append(_metrics(point, number, members, picked))
    return (
        [{name: float(value[0]) for name, value in of_point.items()} for of_point in values],
        [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in found],
        count,
    )


def _metrics(
    point: Scored, number: np.ndarray, members: Sequence[np.ndarray], picked: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics (b,) of each draw of units (b, units)."""
    times = np.stack([np.bincount(row, minlength=len(members)) for row in picked])  # how often each unit, (b, units)
    weights = np.ones(len(number)) if point.weights is None else point.weights
    total = times @ np.bincount(number, weights)  # (b,)
    found = {name: times @ np.bincount(number, weights * scores) / total for name, scores in point.means.items()}
    if point.corpus is not None:
        drawn = [point.corpus(np.concatenate([members[unit] for unit in row])) for row in picked]
        found.update({name: np.array([float(metrics[name]) for metrics in drawn]) for name in drawn[0]})
    return found


def _units(points: Sequence[Scored]) -> tuple[np.ndarray, int]:
    """Number (N,) of each example's unit, and how many units there are."""
    sizes = {np.shape(scores) for point in points for scores in point.means.values()}
    groups = [point.groups for point in points if point.groups is not None and len(point.groups)]
    sizes |= {np.shape(group) for group in groups}
    if len(sizes) != 1 or len(size := sizes.pop()) != 1:
        raise ValueError(f"every metric needs one score for each example, and the same examples; got {sorted(sizes)}")
    if len({frozenset(point.means) for point in points}) > 1:
        raise ValueError("the points were scored by different metrics")
    if groups and not (len(groups) == len(points) and all(np.array_equal(groups[0], group) for group in groups)):
        raise ValueError("the points were not scored on the same groups of examples")
    number = np.unique(groups[0], return_inverse=True)[1] if groups else np.arange(size[0])
    count = int(number.max(initial=-1)) + 1
    if count < 2:
        raise ValueError(f"an interval needs at least two {'groups' if groups else 'examples'}, got {count}")
    return number, count


def _members(number: np.ndarray, count: int) -> list[np.ndarray]:
    """The examples of each unit."""
    order = np.argsort(number, kind="stable")
    return np.split(order, np.cumsum(np.bincount(number, minlength=count))[:-1])
