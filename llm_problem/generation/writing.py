"""Writing several texts at once, a token of each at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from llm_problem.generation.choosing import Chooser
from llm_problem.generation.stopping import Stopping

CROWDED = 0.75  # finished rows leave once the others are at most this share: leaving copies the others' caches


class Rows(Protocol):
    """Rows of text that a model goes on with; each knows what it has read."""

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token (m,) of each row; logits (m, V) of what comes next."""

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows (k,) only."""


def write(
    rows: Rows, logits: torch.Tensor, chooser: Chooser, stopping: Stopping, limits: Sequence[int] | np.ndarray
) -> list[list[int]] | None:
    """The tokens of each text, its end token included; None where a logit is not a number.

    Args:
        rows: what has been read, n rows.
        logits: (n, V) of what comes next.
        chooser: chooses tokens.
        stopping: says when a text ends.
        limits: (n,) tokens of each text at most.
    """
    texts: list[list[int]] = [[] for _ in limits]
    there = list(range(len(texts)))  # numbers of the rows that are still read, in their order
    writing = set(there)
    for step in range(max(limits)):
        tokens = chooser.choose(logits, there, step)
        if tokens is None:
            return None
        for row, token in zip(there, tokens.tolist(), strict=True):
            if row in writing:
                texts[row].append(token)
                if len(texts[row]) >= limits[row] or stopping.ends(texts[row]):
                    writing.discard(row)
        if not writing:
            break
        if len(writing) <= CROWDED * len(there):
            left = torch.tensor([k for k, row in enumerate(there) if row in writing], device=tokens.device)
            rows.keep(left)
            tokens, there = tokens[left], [row for row in there if row in writing]
        logits = rows.advance(tokens)
    return texts
