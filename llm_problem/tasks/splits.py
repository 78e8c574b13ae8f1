"""The three splits, and which examples of one are used.

An optimizer sees *search* only, choices are made on *dev*, *test* is read at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

SPLITS = ("search", "dev", "test")
SHARES = (0.6, 0.2, 0.2)
T = TypeVar("T")


def require_split(split: str) -> str:
    """`split`, if it is one.

    Raises:
        ValueError: another word than search, dev or test.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


def checked_shares(shares: Any) -> tuple[float, float, float]:
    """The shares of search, dev and test.

    Raises:
        ValueError: not three positive numbers that sum to 1.
    """
    try:
        found = tuple(float(share) for share in shares)
    except (TypeError, ValueError):
        found = ()
    if len(found) != 3 or any(not share > 0 for share in found) or abs(sum(found) - 1) > 1e-6:
        raise ValueError(f"shares must be three positive numbers that sum to 1, got {shares!r}")
    return found[0], found[1], found[2]


def split_by_content(content: str, *, without: Sequence[str] = (), shares: Sequence[float] = SHARES) -> str:
    """The split of an example by a hash of its content.

    An example keeps its split when others are added, taken away or put in another order, and two of the same content
    are in one split. Splits named in `without` (they come from files of their own) give their share to search.

    Args:
        content: what decides; that of a whole group where its members must stay together.
        without: splits that are not wanted.
        shares: how much of the hashes each of search, dev and test gets.
    """
    place = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
    _, dev, test = shares
    chosen = "test" if place < test else "dev" if place < test + dev else "search"
    return "search" if chosen in without else chosen


def stratified(items: Sequence[T], label: Callable[[T], int], size: int | None, seed: int) -> list[T]:
    """`size` of the items drawn without replacement, as equal in number for each label as there are; file order.

    The draw follows from `seed`. With None, or as many as there are, all items.
    """
    if size is None or size >= len(items):
        return list(items)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _STREAM])))
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(label(item), []).append(index)
    queues = [list(rng.permutation(groups[key])) for key in sorted(groups)]
    chosen: list[int] = []
    while len(chosen) < size:
        for queue in queues:  # one of each label in turn
            if queue and len(chosen) < size:
                chosen.append(int(queue.pop()))
    return [items[index] for index in sorted(chosen)]


_STREAM = 0xDA7A  # keeps this draw apart from others with the same seed
