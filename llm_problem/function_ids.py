"""Numbers of functions for formats that want one."""

from __future__ import annotations

import hashlib


def function_id(name: str) -> int:
    """ioh's number of a function, of nine digits: it follows from the name, so that processes agree on it."""
    digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return 100_000_000 + digest % 900_000_000
