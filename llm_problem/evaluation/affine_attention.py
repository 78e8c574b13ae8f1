"""Attention whose scores are affine in x, as they are where the first moved layer is the last one.

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
from llm_problem.evaluation.projection import Move, Projection, Started
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
    """A function (changes, width) → (width, p, heads · size); None where the scores are not affine or it does not pay.

    Args:
        layer: the last one, and the first that x moves.
        started: its query projection's and its key and value projection's fixed parts.
        places: who asks.
    """
    if not layer.last or len(layer.inputs) != 2:
        return None
    query, memory = layer.inputs
    keys, _ = memory.columns
    if any(move.low is None for move in (*query.moves, *memory.moves)):
        return None
    if any(move.columns.start < keys.stop for move in memory.moves):  # keys move too
        return None
    if query.moves and layer.query_norm is not None:
        return None
    ranks = sum(move.left.shape[0] for move in query.moves if move.left is not None)
    if 2 * ranks > layer.size or places.groups.scores * layer.heads * (ranks + 1) > LIMIT:
        return None
    return _Affine(layer, started, places)


class _Affine:
    def __init__(self, layer: Layer, started: Sequence[Started], places: Places) -> None:
        self.layer, self.started, self.places = layer, started, places
        self.query: Projection = layer.inputs[0]
        self.memory: Projection = layer.inputs[1]
        q, k, v = layer.split([s.y.clone() for s in started])
        q, k = layer.turned(q, k, places)
        lefts = [move.left for move in self.query.moves if move.left is not None]
        left = None
        if lefts:
            left = torch.cat(lefts).unflatten(-1, (layer.heads, layer.size))  # (r, heads, size)
            left = left.expand(q.shape[1], -1, -1, -1).clone()  # (p, r, heads, size)
            if layer.rotary:
                assert places.turn_queries is not None
                turn(left, places.turn_queries[:, None, None], layer.rotary)
        low = started[1].low
        self.prepared = [self._prepare(bucket, q[0], k[0], v[0], left, low) for bucket in places.groups.buckets]
        # (shared, r, size) for each move of the values
        self.value_lefts = [self._by_head(move) for move in self.memory.moves]

    def __call__(self, changes: Sequence[Delta], width: int) -> torch.Tensor:
        layer = self.layer
        c = None
        if self.query.moves:
            c = torch.cat([self.query.low(self.started[0], move, changes) for move in self.query.moves], dim=-1)
        outputs = [self._one_bucket(prepared, c, width) for prepared in self.prepared]
        out = self.places.groups.in_order(outputs)  # (width, p, heads, size + ranks)
        result, start = out[..., : layer.size], layer.size
        for move, left in zip(self.memory.moves, self.value_lefts, strict=True):
            delta = changes[move.number]
            rank = left.shape[1]
            u = out[..., start : start + rank]  # Σ_t a_t u_t
            start += rank
            z = torch.matmul(u.flatten(1, 2), delta.core.to(self.memory.dtype).transpose(1, 2))  # type: ignore[union-attr]
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
        lows = [low[0][:, move.low] for move in self.memory.moves] if low is not None else []
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

    def _by_head(self, move: Move) -> torch.Tensor:
        """L of a move of the values, (shared, r, size); heads that it leaves alone get zeros."""
        assert move.left is not None
        values = self.memory.columns[1]
        whole = move.left.new_zeros(move.left.shape[0], values.stop - values.start)
        whole[:, move.columns.start - values.start : move.columns.stop - values.start] = move.left
        return whole.unflatten(-1, (self.layer.shared, self.layer.size)).transpose(0, 1).contiguous()


def _plus(scores: torch.Tensor, c: torch.Tensor, by_core: torch.Tensor) -> torch.Tensor:
    """scores (b, 1, m) + c (b, n, r) · by_core (b, r, m)."""
    rank = by_core.shape[1]
    if rank > PASSES:
        return torch.baddbmm(scores, c, by_core)
    total = torch.addcmul(scores, c[:, :, :1], by_core[:, :1])
    for i in range(1, rank):
        total.addcmul_(c[:, :, i : i + 1], by_core[:, i : i + 1])
    return total
