"""Attention whose scores are affine in x, as they are in the first layer that x moves.

There the inputs, the keys and the unmoved parts are fixed. With a low-rank change L C R of the query projection a
query is q + L c with c = C (R x), so its scores are q·k + Σ_i c_i (L_i·k): all q·k and L_i·k are computed once. With
one of the value projection, values are v + L C u with u = R x, so Σ_t a_t v_t + L C Σ_t a_t u_t needs the few numbers
of u beside those of v. No query, key or value is ever built for a candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llm_problem.evaluation.attention import Bucket
from llm_problem.evaluation.projection import Move, Projection, Started, cored
from llm_problem.evaluation.rotary import turn
from llm_problem.subspaces.deltas import Delta

if TYPE_CHECKING:
    from llm_problem.evaluation.layer import Layer, Places

Attention = Callable[[Sequence[Delta], int], torch.Tensor]
LIMIT = 32_000_000  # numbers kept; more are slower to read than to compute again
FEW = 8  # rows of a matrix product that libraries treat like more of them
PASSES = 16  # so many numbers of c are added one after another, bit by bit alike for any number of candidates


@dataclass(frozen=True, eq=False)
class Prepared:
    """A bucket with everything that does not depend on x."""

    bucket: Bucket
    scores: torch.Tensor  # (B · Lq, 1, heads · Lk)
    by_core: torch.Tensor | None  # (B · Lq, r, heads · Lk) what each number of c adds
    values: torch.Tensor  # (B · shared, Lk, size + ranks)


def affine_attention(layer: Layer, started: Sequence[Started], places: Places) -> Attention | None:
    """A function (changes, width) → (width, Q, heads · size); None where the scores are not affine or it does not pay.

    Args:
        layer: the first one that x moves.
        started: the fixed parts of its projections' outputs.
        places: who asks.
    """
    sides = _sides(layer, started)
    if sides is None:
        return None
    query, values = sides
    if query.moves and layer.query_norm is not None:
        return None
    ranks = sum(_rank(move) for move in query.moves)
    if 2 * ranks > layer.size or places.groups.scores * layer.heads * (ranks + 1) > LIMIT:
        return None
    return _Affine(layer, started, places, query, values)


@dataclass(frozen=True, eq=False)
class Side:
    """The queries or the values: what makes them, its fixed part, and what moves them."""

    projection: Projection
    started: Started
    columns: slice
    moves: list[Move]

    def low(self, move: Move, changes: Sequence[Delta]) -> torch.Tensor:
        return self.projection.low(self.started, move, changes)


def _sides(layer: Layer, started: Sequence[Started]) -> tuple[Side, Side] | None:
    """The queries and the values; None where something else moves, or moves another way than by a low rank."""
    placed = [(p, s, c) for p, s in zip(layer.inputs, started, strict=True) for c in p.columns]
    sides = [
        Side(p, s, c, [m for m in p.moves if c.start <= m.columns.start and m.columns.stop <= c.stop])
        for p, s, c in placed
    ]
    query, keys, values = sides
    moves = [move for projection in layer.inputs for move in projection.moves]
    if keys.moves or len(query.moves) + len(values.moves) < len(moves) or any(move.low is None for move in moves):
        return None
    return query, values


class _Affine:
    def __init__(self, layer: Layer, started: Sequence[Started], places: Places, query: Side, values: Side) -> None:
        self.layer, self.places, self.query, self.values = layer, places, query, values
        q, k, v = layer.split([s.y.clone() for s in started])
        q, k = layer.turned(q, k, places)
        left = None
        if query.moves:
            left = torch.cat([_on_all_heads(move, query.columns) for move in query.moves])
            left = left.unflatten(-1, (layer.heads, layer.size))  # (r, heads, size)
            left = left.expand(q.shape[1], -1, -1, -1).clone()  # (Q, r, heads, size)
            if layer.rotary:
                assert places.turn_queries is not None
                turn(left, places.turn_queries[:, None, None], layer.rotary)
        low = values.started.low
        self.prepared = [self._prepare(bucket, q[0], k[0], v[0], left, low) for bucket in places.groups.buckets]
        # (shared, r, size) for each move of the values
        self.value_lefts = [
            _on_all_heads(move, values.columns).unflatten(-1, (layer.shared, layer.size)).transpose(0, 1).contiguous()
            for move in values.moves
        ]

    @property
    def nbytes(self) -> int:
        """Memory that it keeps."""
        tensors = [t for p in self.prepared for t in (p.scores, p.by_core, p.values) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)

    def __call__(self, changes: Sequence[Delta], width: int) -> torch.Tensor:
        layer = self.layer
        c = None
        if self.query.moves:
            c = torch.cat([self.query.low(move, changes) for move in self.query.moves], dim=-1)
        outputs = [self._one_bucket(prepared, c, width) for prepared in self.prepared]
        out = self.places.groups.in_order(outputs)  # (width, p, heads, size + ranks)
        result, start = out[..., : layer.size], layer.size
        for move, left in zip(self.values.moves, self.value_lefts, strict=True):
            delta = changes[move.number]
            rank = left.shape[1]
            u = out[..., start : start + rank]  # Σ_t a_t u_t
            start += rank
            z = cored(u.flatten(1, 2), delta.core.to(self.values.projection.dtype))  # type: ignore[union-attr]
            z = z.view(width, u.shape[1], layer.shared, -1, rank)  # (width, p, shared, share, r)
            added = torch.einsum("npkgr,krs->npkgs", z, left)
            result = result + added.reshape(result.shape)
        return result.reshape(width, -1, layer.heads * layer.size)

    def _prepare(
        self,
        bucket: Bucket,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        left: torch.Tensor | None,
        low: torch.Tensor | None,
    ) -> Prepared:
        layer, (count, lq, lk) = self.layer, (bucket.count, bucket.lq, bucket.lk)
        share = layer.heads // layer.shared
        qs = q.index_select(0, bucket.queries).view(count, lq, layer.shared, share, layer.size)
        ks = k.index_select(0, bucket.keys).view(count, lk, layer.shared, layer.size)
        vs = v.index_select(0, bucket.keys).view(count, lk, layer.shared, layer.size)
        scores = torch.einsum("bqkgs,btks->bqkgt", qs, ks) * layer.scale
        if bucket.bias is not None:
            scores = scores + bucket.bias[:, :, None, None]
        by_core = None
        if left is not None:
            ls = left.index_select(0, bucket.queries).view(count, lq, -1, layer.shared, share, layer.size)
            by_core = torch.einsum("bqrkgs,btks->bqrkgt", ls, ks) * layer.scale
            by_core = by_core.reshape(count * lq, -1, layer.heads * lk).contiguous()
        lows = [low[0][:, move.low] for move in self.values.moves] if low is not None else []
        us = [u.index_select(0, bucket.keys).view(count, lk, 1, -1).expand(-1, -1, layer.shared, -1) for u in lows]
        values = torch.cat([vs, *us], dim=-1).transpose(1, 2).reshape(count * layer.shared, lk, -1).contiguous()
        return Prepared(bucket, scores.reshape(count * lq, 1, -1).contiguous(), by_core, values)

    def _one_bucket(self, prepared: Prepared, c: torch.Tensor | None, width: int) -> torch.Tensor:
        """(width, B · Lq, heads, size + ranks)."""
        layer, bucket = self.layer, prepared.bucket
        count, lq, lk = bucket.count, bucket.lq, bucket.lk
        n, scores = 1, prepared.scores
        if c is not None and prepared.by_core is not None:
            # Matrix libraries take few rows another way, with other last bits: one candidate brings copies along.
            few = -(-FEW // (lq * layer.heads // layer.shared)) if width == 1 else 1
            n = max(width, few)
            mine = c.expand(n, -1, -1).index_select(1, bucket.queries).transpose(0, 1)  # (B · Lq, n, r)
            scores = _plus(scores, mine, prepared.by_core)  # (B · Lq, n, heads · Lk)
        a = torch.softmax(scores.view(count, lq, n, layer.shared, -1, lk), dim=-1)
        a = a.permute(0, 3, 1, 2, 4, 5).reshape(count * layer.shared, -1, lk)
        out = torch.bmm(a, prepared.values).view(count, layer.shared, lq, n, -1, prepared.values.shape[-1])
        out = out.permute(3, 0, 2, 1, 4, 5).reshape(n, count * lq, layer.heads, -1)
        return out[:width].expand(width, -1, -1, -1)


def _rank(move: Move) -> int:
    return 0 if move.left is None else move.left.shape[0]


def _on_all_heads(move: Move, columns: slice) -> torch.Tensor:
    """L of a move, transposed, (r, columns); zero in the columns that it leaves alone."""
    assert move.left is not None
    whole = move.left.new_zeros(move.left.shape[0], columns.stop - columns.start)
    whole[:, move.columns.start - columns.start : move.columns.stop - columns.start] = move.left
    return whole


def _plus(scores: torch.Tensor, c: torch.Tensor, by_core: torch.Tensor) -> torch.Tensor:
    """scores (b, 1, m) + c (b, n, r) · by_core (b, r, m)."""
    rank = by_core.shape[1]
    if rank > PASSES:
        return torch.baddbmm(scores, c, by_core)
    total = torch.addcmul(scores, c[:, :, :1], by_core[:, :1])
    for i in range(1, rank):
        total.addcmul_(c[:, :, i : i + 1], by_core[:, i : i + 1])
    return total
