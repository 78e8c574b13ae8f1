"""What another machine does otherwise: decompositions, whose neighbouring vectors may come out turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

_DECOMPOSITIONS = ("svd", "eigh", "eig", "qr")
_ANGLE = 0.3  # radians


@contextmanager
def turned_decompositions() -> Iterator[None]:
    """Numpy's and torch's decompositions of matrices with their first two vectors turned, in this process.

    Vectors of equal singular values are only determined up to such a turn, and those of close ones nearly so. What does
    not depend on them stays as it is: singular values, eigenvalues.
    """
    with ExitStack() as patches:
        for library in (np.linalg, torch.linalg):
            for name in _DECOMPOSITIONS:
                if hasattr(library, name):
                    patches.enter_context(patch.object(library, name, _turning(getattr(library, name))))
        yield


def _turning(decompose: Callable[..., Any]) -> Callable[..., Any]:
    def turned(*args: Any, **options: Any) -> Any:
        found = decompose(*args, **options)
        if not isinstance(found, tuple):  # values alone
            return found
        parts = [_turned(part) if part.ndim > 1 else part for part in found]
        return type(found)(*parts) if hasattr(found, "_fields") else type(found)(parts)

    return turned


def _turned(matrix: Any) -> Any:
    """The first two columns of a square or tall matrix turned, the first two rows of a wide one."""
    wide = matrix.shape[-1] > matrix.shape[-2]
    if max(matrix.shape[-2:]) < 2 or min(matrix.shape[-2:]) < 2:
        return -matrix
    turned = matrix + 0
    one, two = (matrix[..., k, :] if wide else matrix[..., k] for k in (0, 1))
    rows = (math.cos(_ANGLE) * one - math.sin(_ANGLE) * two, math.sin(_ANGLE) * one + math.cos(_ANGLE) * two)
    for k, row in enumerate(rows):
        if wide:
            turned[..., k, :] = row
        else:
            turned[..., k] = row
    return turned
