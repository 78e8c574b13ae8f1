"""Numbers of functions for formats that want one."""

from __future__ import annotations

import hashlib

FIRST, LAST = 10_001, 65_535  # beyond ioh's own functions; iohinspector reads 16 bits


def function_id(name: str) -> int:
    """ioh's number of a function: it follows from the name, so that processes agree on it."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return FIRST + digest % (LAST - FIRST + 1)
