"""Taking turns: whoever is compared is timed in one run, one after another, again and again.

A machine that slows down then slows all of them, and a ratio taken within a turn keeps little of it. Short calls are
repeated until they have lasted a while, so that the clock, and the caches that a long call left behind, count for
little. The first turn fills caches, finds the numbers of repeats, and is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

MAX_REPEATS = 1000
POOL_NUMBERS = 2**22  # random numbers drawn for one turn, at most, unless one population alone needs more


def interleave(
    calls: Mapping[str, Callable[[int], object]],
    rounds: int,
    least: float | Mapping[str, float],
    before_turn: Callable[[int, int], None] = lambda turn, repeats: None,
) -> dict[str, np.ndarray]:
    """Seconds per call of each, turn by turn.

    Args:
        calls: by name; called with the number of the repeat, from 0.
        rounds: turns that count.
        least: seconds that one's turn lasts at least, by repeating the call; one number, or by name.
        before_turn: called with the turn's number and the most repeats that it may have, untimed.

    Returns:
        (rounds,) seconds by name.
    """
    names = list(calls)
    least = least if isinstance(least, Mapping) else dict.fromkeys(names, least)
    repeats = dict.fromkeys(names, 1)
    seconds = {name: np.empty(rounds) for name in names}
    for turn in range(rounds + 1):
        before_turn(turn, max(repeats.values()))
        first = turn % len(names)  # nobody always comes behind the same one
        for name in names[first:] + names[:first]:
            if turn:
                seconds[name][turn - 1] = _seconds_per_call(calls[name], range(repeats[name]))
            else:
                taken = _seconds_per_call(calls[name], range(1))
                if taken < 10 * least[name]:  # else one is enough, whatever part of it was filling caches
                    taken = _seconds_per_call(calls[name], range(1, 2))
                repeats[name] = min(MAX_REPEATS, max(1, int(np.ceil(least[name] / taken))))
    return seconds


def _seconds_per_call(call: Callable[[int], object], numbers: range) -> float:
    started = time.perf_counter()
    for number in numbers:
        call(number)
    return max(time.perf_counter() - started, 1e-9) / len(numbers)


@dataclass(frozen=True)
class Contestant:
    """Someone who evaluates: `losses` maps X (width, d) to (width,)."""

    name: str
    losses: Callable[[np.ndarray], np.ndarray]
    width: int = 1


@dataclass(frozen=True)
class Race:
    """What came out: seconds per evaluation (rounds,) by name, and the largest difference between two losses."""

    seconds: dict[str, np.ndarray]
    losses_apart: float

    def milliseconds(self, name: str) -> np.ndarray:
        return 1e3 * self.seconds[name]

    def ratio(self, slow: str, fast: str) -> np.ndarray:
        """(rounds,) how many times longer `slow` took, turn by turn."""
        return self.seconds[slow] / self.seconds[fast]


def race(contestants: Sequence[Contestant], dimension: int, rounds: int, least: float) -> Race:
    """Let contestants evaluate the same fresh points x ~ N(0, I), turn by turn."""
    pool = _Points(dimension, max(c.width for c in contestants))
    found: dict[str, list[np.ndarray]] = {}  # of the turn that is on

    def caller(contestant: Contestant) -> Callable[[int], None]:
        def call(repeat: int) -> None:
            found[contestant.name].append(contestant.losses(pool.take(repeat, contestant.width)))

        return call

    apart = 0.0

    def compare(turn: int, repeats: int) -> None:
        nonlocal apart
        apart = float(np.maximum(apart, largest_difference(found)))  # np.maximum keeps NaN
        found.update({c.name: [] for c in contestants})
        pool.draw(turn, repeats if turn else 2)

    calls = {c.name: caller(c) for c in contestants}
    seconds = interleave(calls, rounds, least, before_turn=compare)
    apart = float(np.maximum(apart, largest_difference(found)))
    return Race({c.name: seconds[c.name] / c.width for c in contestants}, apart)


def largest_difference(losses: Mapping[str, Sequence[np.ndarray]]) -> float:
    """Between any two who evaluated the same first points; NaN where a loss is."""
    lists = [np.concatenate(values) for values in losses.values() if values]
    pairs = ((a[: len(b)], b[: len(a)]) for a, b in combinations(lists, 2))
    return float(np.max([np.max(np.abs(a - b)) for a, b in pairs], initial=0.0))


class _Points:
    """The points of one turn, drawn before it starts; everyone reads them in order, and a long turn goes round."""

    def __init__(self, dimension: int, width: int) -> None:
        self.dimension, self.width = dimension, width
        self.X: np.ndarray = np.empty((0, dimension))

    def draw(self, turn: int, repeats: int) -> None:
        rng = np.random.default_rng([turn, self.dimension])
        count = min(repeats * self.width, max(self.width, POOL_NUMBERS // self.dimension))
        self.X = rng.standard_normal((count - count % self.width, self.dimension))

    def take(self, repeat: int, width: int) -> np.ndarray:
        start = repeat * width % len(self.X)
        return self.X[start : start + width]


def spread(values: np.ndarray) -> str:
    """Median and, below it, quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{figure(median)}\n[{figure(low)}–{figure(high)}]"


def figure(value: float) -> str:
    """Three figures that tell, without exponents where people count in ones to thousands."""
    if not np.isfinite(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"
