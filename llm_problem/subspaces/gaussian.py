"""A frozen Gaussian projection P (N, d) whose columns have one length, drawn with numpy's PCG64."""

from __future__ import annotations

import numpy as np
import torch

from llm_problem.subspaces.draws import basis_generator, require_memory


def gaussian_columns(dimension: int, size: int, seed: int, stream: int, what: str) -> torch.Tensor:
    """Pᵀ (d, N) float32: rows of length one, from N(0, 1).

    Args:
        dimension: d, from 1 to N.
        size: N, how many numbers are moved.
        seed: draws them.
        stream: keeps them apart from other draws with the same seed.
        what: the numbers that are moved, for errors.

    Raises:
        ValueError: a dimension above N, or a projection that does not fit into the free memory.
    """
    if dimension > size:
        raise ValueError(f"dimension {dimension} is above the number of {what}, {size}")
    require_memory(
        4 * dimension * size,
        f"a dense projection of {size} {what} to dimension {dimension}",
        "a shorter text or a smaller dimension",
    )
    rng = basis_generator(seed, stream)
    columns = torch.empty((dimension, size), dtype=torch.float32)
    for k in range(dimension):
        draw = rng.standard_normal(size, dtype=np.float32)
        columns[k] = torch.from_numpy(draw / np.float32(np.sqrt(np.square(draw, dtype=np.float64).sum())))
    return columns
