"""A bound subspace in calibrated units: the subspace's own x is `units` times the one it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta


class ScaledSubspace(BoundSubspace):
    """The same map with another length of its units.

    Args:
        inner: the subspace.
        units: one factor for each of its blocks, positive.

    Raises:
        ValueError: another number of factors than there are blocks.
    """

    def __init__(self, inner: BoundSubspace, units: Sequence[float]) -> None:
        sizes = inner.block_sizes
        if len(units) != len(sizes):
            raise ValueError(f"units must be one factor for each of the {len(sizes)} blocks of x, got {tuple(units)}")
        self.inner: Any = inner  # with what is its own kind's alone
        self.units = tuple(units)
        self.dimension, self.parameters = inner.dimension, inner.parameters
        self.blocks, self.kept, self.description = inner.blocks, inner.kept, inner.description
        # One number where there is one block: a vector of all coordinates may be as large as the model.
        self._units = torch.from_numpy(np.repeat(units, sizes) if len(sizes) > 1 else np.array(units))  # (d,) or (1,)

    @property
    def prompt(self) -> tuple[int, ...]:  # type: ignore[override]  # read anew: it is part of the basis
        return self.inner.prompt

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return self.inner.deltas(X * self._units.to(X))

    def basis(self) -> Iterable[torch.Tensor]:
        return self.inner.basis()

    def theta0(self) -> torch.Tensor:
        """The pretrained parameters (d,) float64 in units of this x, see `BoundFullVector.theta0`."""
        return self.inner.theta0() / self._units
