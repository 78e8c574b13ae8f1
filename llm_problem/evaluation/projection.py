"""Projections of one layer that read the same input: one frozen product, and what x adds to it.

A low-rank change is applied to activations, W x + L (C (R x)), and its weight is never built; where the input does not
depend on x, W x and R x are computed once. The part that x moves is the core C, or the factor L itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_problem.evaluation.feature_moves import FeatureMoves
from llm_problem.evaluation.gemm import FrozenLinear, WeightStore, fastest_library, working_dtype
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Target
from llm_problem.subspaces.deltas import (
    Delta,
    DenseDelta,
    FactorDelta,
    LowRankDelta,
    ScaleDelta,
    WeightDelta,
)

Numbered = tuple[int, Delta]
"""A delta and its number in what the subspace returns."""


@dataclass(frozen=True, eq=False)
class Part:
    """A projection and the order in which its output features are wanted (numbers of stored rows)."""

    target: Target
    order: np.ndarray  # (features,)


@dataclass(frozen=True, eq=False)
class Move:
    """How one delta changes some columns of the output."""

    number: int
    columns: slice
    order: torch.Tensor  # (columns,) rows of the delta, in the order of the columns
    low: slice | None = None  # of R x, where the delta has low rank
    left: torch.Tensor | None = None  # (r, columns), L transposed, where x does not move it


@dataclass(frozen=True, eq=False)
class Started:
    """What a projection makes of an input before x comes in."""

    x: torch.Tensor  # (n, M, K)
    y: torch.Tensor | None  # (n, M, N); None where the product's input is scaled first
    low: torch.Tensor | None  # (n, M, Σr)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.x, self.y, self.low) if t is not None)


class Projection:
    """y = W x for stacked weights W, plus the changes.

    Args:
        store: where packed weights are kept.
        model: the transformers model.
        parts: the weights that are stacked, with their columns' order.
        deltas: those of the whole layer; those that move none of the parts are left alone.
        rows: M of the products to come.
        precision: of the frozen products, None for that of the weights.
    """

    def __init__(
        self,
        store: WeightStore,
        model: Any,
        parts: Sequence[Part],
        deltas: Sequence[Numbered],
        rows: int,
        precision: torch.dtype | None = None,
    ) -> None:
        ends = np.cumsum([len(part.order) for part in parts])
        self.columns = [slice(int(end) - len(part.order), int(end)) for part, end in zip(parts, ends, strict=True)]
        self.linear = _frozen(store, model, parts, rows, precision)
        self.dtype = working_dtype(self.linear.dtype)
        self.features = FeatureMoves(self.linear.outputs, self.linear.bias, self.dtype)
        self.moves: list[Move] = []
        rights: list[torch.Tensor] = []
        start = 0
        for number, delta in deltas:
            if (whole := _whole(delta, parts)) is not None:
                if (place := _place(whole, parts)) is not None:
                    assert isinstance(delta, ScaleDelta | DenseDelta)
                    self.features.add(number, delta, place[0], torch.from_numpy(place[1]))
                continue
            if not isinstance(delta, LowRankDelta | FactorDelta | WeightDelta):
                continue
            if (place := _place(delta.target, parts)) is None:
                continue
            columns, order = place
            index = torch.from_numpy(order)
            if isinstance(delta, WeightDelta):
                self.moves.append(Move(number, columns, index))
                continue
            left = None
            if isinstance(delta, LowRankDelta):
                left = delta.left[index.to(delta.left.device)].T.to(self.dtype).contiguous()
            rank = delta.right.shape[0]
            self.moves.append(Move(number, columns, index, slice(start, start + rank), left))
            rights.append(delta.right.to(self.dtype))
            start += rank
        self.right: FrozenLinear | None = None  # R of all low-rank moves, (Σr, K)
        if rights:
            right = torch.cat(rights)
            library = fastest_library(rows, right.shape[1], right.shape[0], right.dtype, right.device)
            self.right = FrozenLinear(right, None, library)

    @property
    def numbers(self) -> set[int]:
        """Of the deltas that move it."""
        return {move.number for move in self.moves} | self.features.numbers

    def start(self, x: torch.Tensor) -> Started:
        """The frozen products for an input (n, M, K)."""
        flat = x.reshape(-1, x.shape[-1])
        y = None if self.features.inputs else self._product(x)
        low = None if self.right is None else self.right(flat).view(*x.shape[:2], -1)
        return Started(x, y, low)

    def finish(self, started: Started, changes: Sequence[Delta], width: int, *, kept: bool) -> torch.Tensor:
        """(width or n, M, N) with the changes of `width` candidates; `kept`: `started` is needed again."""
        y = started.y
        if y is None:
            y, kept = self._product(self.features.scaled(started.x, changes)), False
        if self.features.scales or self.features.biases:
            y, kept = self.features.moved(y, changes, width, kept=kept), False
        if not self.moves:
            return y
        if len(y) != width:
            y = y.expand(width, -1, -1).clone()
        elif kept:
            y = y.clone()
        for move in self.moves:
            self._add(y, started, move, changes[move.number])
        return y

    def __call__(self, x: torch.Tensor, changes: Sequence[Delta], width: int) -> torch.Tensor:
        """(width or n, M, N) for an input (n, M, K)."""
        return self.finish(self.start(x), changes, width, kept=False)

    def low(self, started: Started, move: Move, changes: Sequence[Delta]) -> torch.Tensor:
        """C (R x), (width, M, r), of a low-rank move."""
        delta = changes[move.number]
        assert isinstance(delta, LowRankDelta) and started.low is not None
        return through_core(started.low[..., move.low], delta.core.to(self.dtype))

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """The frozen product (n, M, N) of an input (n, M, K)."""
        return self.linear(x.reshape(-1, x.shape[-1])).view(*x.shape[:2], -1)

    def _add(self, y: torch.Tensor, started: Started, move: Move, delta: Delta) -> None:
        if isinstance(delta, LowRankDelta):
            assert move.left is not None
            z = self.low(started, move, {move.number: delta})  # type: ignore[arg-type]
            y.view(-1, y.shape[-1])[:, move.columns].addmm_(z.reshape(-1, z.shape[-1]), move.left)
            return
        order = move.order.to(y.device)
        if isinstance(delta, FactorDelta):
            assert started.low is not None
            left = delta.left.index_select(1, order).to(self.dtype).transpose(1, 2)  # (width, r, columns)
            # A product for each candidate, of the same shape for any number of them.
            y[..., move.columns].baddbmm_(started.low[..., move.low].expand(len(y), -1, -1), left)
            return
        assert isinstance(delta, WeightDelta)
        for i in range(len(y)):
            change = delta.value[i].index_select(0, order).to(self.dtype)  # (columns, K)
            y[i][:, move.columns].addmm_(started.x[i if len(started.x) > 1 else 0], change.T)


def through_core(low: torch.Tensor, core: torch.Tensor) -> torch.Tensor:
    """C u of each row u, (width, M, r), for rows `low` (1 or width, M, r) and cores (width, r, r) or (width, r)."""
    return low * core[:, None] if core.ndim == 2 else torch.matmul(low, core.transpose(1, 2))


def _frozen(
    store: WeightStore, model: Any, parts: Sequence[Part], rows: int, precision: torch.dtype | None
) -> FrozenLinear:
    parameters = dict(model.named_parameters())

    def build() -> tuple[torch.Tensor, torch.Tensor | None]:
        weights, biases = [], []
        for part in parts:
            stored = plain(parameters[part.target.parameter])
            index = torch.as_tensor(part.order, device=stored.device)
            weights.append((stored.T if part.target.transposed else stored)[index])
            bias = parameters.get(part.target.bias)
            biases.append(None if bias is None else bias.detach()[index])
        if all(bias is None for bias in biases):
            return torch.cat(weights), None
        filled = [w.new_zeros(len(w)) if b is None else b for w, b in zip(weights, biases, strict=True)]
        return torch.cat(weights), torch.cat(filled)

    names = [name for part in parts for name in (part.target.parameter, part.target.bias)]
    tensors = [parameters[name] for name in names if name in parameters]
    key = (
        tuple((part.target.parameter, part.order.tobytes()) for part in parts),
        tuple((id(t), t.data_ptr(), t._version, t.dtype) for t in tensors),
    )
    shape = sum(len(part.order) for part in parts), parts[0].target.shape[1]
    return store.get(key, shape, tensors[0], build, rows, precision)


def _whole(delta: Delta, parts: Sequence[Part]) -> Target | None:
    """The weight whose output features a scale or a bias moves, seen whole for a bias; None for anything else."""
    if isinstance(delta, ScaleDelta):
        return delta.target
    if isinstance(delta, DenseDelta):
        for part in parts:
            if part.target.bias == delta.parameter:
                return dataclasses.replace(part.target, rows=None)
    return None


def _place(target: Target, parts: Sequence[Part]) -> tuple[slice, np.ndarray] | None:
    """Columns that a target's rows are, and the target's rows in that order; None where it is none of them."""
    rows = np.arange(target.stored_rows) if target.rows is None else target.rows
    row_of = {int(row): k for k, row in enumerate(rows)}
    columns, order = [], []
    start = 0
    for part in parts:
        if part.target.parameter == target.parameter:
            for k, row in enumerate(part.order.tolist()):
                if row in row_of:
                    columns.append(start + k)
                    order.append(row_of[row])
        start += len(part.order)
    if not columns:
        return None
    if columns[-1] - columns[0] + 1 != len(columns):
        raise ValueError(f"{target.name} moves columns that do not stand together")
    return slice(columns[0], columns[-1] + 1), np.array(order)
