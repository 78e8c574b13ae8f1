"""What x does to whole features of a projection: scales of its outputs or inputs, and its bias.

Scales diag(1 + v) W x + b and biases b + Δb together change a frozen product y = W x + b to f ∘ y + g with f = 1 + v
and g = Δb − v ∘ b, two vectors for each candidate. A scaled input, W (x ∘ (1 + v)), is scaled before its product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from llm_problem.subspaces.deltas import Delta, DenseDelta, ScaleDelta


@dataclass(frozen=True, eq=False)
class FeatureMove:
    """One delta's entries, in the order of some columns."""

    number: int
    columns: slice
    order: torch.Tensor  # (columns,)


@dataclass(eq=False)
class FeatureMoves:
    """The feature moves of one projection of `outputs` features, whose frozen product adds `bias` (N,) or None."""

    outputs: int
    bias: torch.Tensor | None
    dtype: torch.dtype
    scales: list[FeatureMove] = field(default_factory=list)
    biases: list[FeatureMove] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    """Numbers of the deltas that scale the input."""

    def add(self, number: int, delta: ScaleDelta | DenseDelta, columns: slice, order: torch.Tensor) -> None:
        """Take up a delta.

        Raises:
            ValueError: it scales the input of some of the products only that are run together.
        """
        if isinstance(delta, DenseDelta):
            self.biases.append(FeatureMove(number, columns, order))
        elif delta.side == "output":
            self.scales.append(FeatureMove(number, columns, order))
        elif len(order) == self.outputs:
            self.inputs.append(number)
        else:
            raise ValueError(f"{delta.target.name}: the input is scaled of one of several products that share it")

    @property
    def numbers(self) -> set[int]:
        """Of the deltas taken up."""
        return {move.number for move in self.scales + self.biases} | set(self.inputs)

    def scaled(self, x: torch.Tensor, changes: Sequence[Delta]) -> torch.Tensor:
        """The inputs (width, M, K) of the product from those before, (n, M, K)."""
        factor = 1 + sum(self._value(changes[number]) for number in self.inputs)  # (width, K)
        return x * factor[:, None]  # type: ignore[index]

    def moved(self, y: torch.Tensor, changes: Sequence[Delta], width: int, *, kept: bool) -> torch.Tensor:
        """The outputs (width, M, N) from the frozen product y (n, M, N), which is overwritten unless it is `kept`."""
        factor, shift = self._sum(self.scales, changes, width), self._sum(self.biases, changes, width)
        if factor is not None:
            if self.bias is not None:
                own = factor * self.bias.to(factor.dtype)
                shift = own.neg_() if shift is None else shift - own
            y = _in_place(torch.mul, y, factor.add_(1)[:, None], kept)
            kept = False
        return y if shift is None else _in_place(torch.add, y, shift[:, None], kept)

    def _sum(self, moves: list[FeatureMove], changes: Sequence[Delta], width: int) -> torch.Tensor | None:
        """The moves' entries in their columns (width, N); None where there are no moves."""
        if not moves:
            return None
        total = self._value(changes[moves[0].number]).new_zeros(width, self.outputs)
        for move in moves:
            total[:, move.columns] += self._value(changes[move.number])[:, move.order]
        return total

    def _value(self, delta: Delta) -> torch.Tensor:
        assert isinstance(delta, ScaleDelta | DenseDelta)
        return delta.value.to(self.dtype)


def _in_place(function: Callable[..., torch.Tensor], y: torch.Tensor, by: torch.Tensor, kept: bool) -> torch.Tensor:
    """function(y, by) for y (n, M, N) and by (width, 1, N), in the memory of y where that is large enough and free."""
    return function(y, by) if kept or len(y) < len(by) else function(y, by, out=y)
