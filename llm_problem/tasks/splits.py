"""The three splits, and which examples of one are used.

An optimizer sees *search* only, choices are made on *dev*, *test* is read at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

SPLITS = ("search", "dev", "test")
T = TypeVar("T")


def require_split(split: str) -> str:
    """`split`, if it is one.

    Raises:
        ValueError: another word than search, dev or test.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


def split_by_content(content: str, *, without: Sequence[str] = ()) -> str:
    """The split of an example by a hash of its content: 60% search, 20% dev, 20% test.

    An example keeps its split when others are added. Splits named in `without` (they come from files of their own)
    give their share to search.
    """
    share = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
    chosen = "test" if share < 0.2 else "dev" if share < 0.4 else "search"
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
