"""How many threads an evaluation uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

SMALL_MODEL = 5_000_000  # parameters


@contextmanager
def fitting_threads(model: Any) -> Iterator[None]:
    """One thread while a small model runs, and the process's own number again afterwards.

    The matrix products of a small model are too short to be shared: threads cost more than they bring, and where the
    other cores are busy each product waits for them (an evaluation of a bundled model then takes a hundred times as
    long).
    """
    before = torch.get_num_threads()
    if before == 1 or sum(p.numel() for p in model.parameters()) > SMALL_MODEL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
