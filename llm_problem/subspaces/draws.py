"""Frozen random bases: where their numbers come from, and whether they fit into memory."""

from __future__ import annotations

import numpy as np
import psutil


def basis_generator(seed: int, stream: int) -> np.random.Generator:
    """Numpy's PCG64 for one basis; `stream` keeps it apart from other draws with the same seed."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))


def require_memory(needed: int, what: str, instead: str) -> None:
    """Refuse a basis that does not fit before it is drawn.

    Args:
        needed: bytes.
        what: names the basis in the message.
        instead: what to choose in its place.

    Raises:
        ValueError: more than is free.
    """
    free = psutil.virtual_memory().available
    if needed > free:
        raise ValueError(f"{what} needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: choose {instead}")
