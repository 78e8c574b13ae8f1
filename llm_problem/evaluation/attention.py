"""Attention of packed sequences: each sequence attends to its own tokens only, in a few padded buckets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

# One product a bucket has a price of its own, worth about this many query-key pairs (measured: 15 µs beside 32
# sentences of 7 to 46 tokens, which two to four buckets serve best).
BUCKET_PRICE = 4_000
# Scores of more pairs than this are not written down: the library's blockwise kernel takes over. Below it, plain
# products and a softmax are about twice as fast (measured on lengths 20 to 50).
WRITTEN_DOWN = 192 * 192


@dataclass(frozen=True, eq=False)
class Span:
    """Tokens that ask and the sequence that they ask: places in the row."""

    queries: np.ndarray  # (q,)
    positions: np.ndarray  # (q,) of the queries, counted in the sequence
    keys: np.ndarray  # (k,) the whole sequence, in order


@dataclass(frozen=True, eq=False)
class Heads:
    """Some neighbouring heads of a tensor (n, rows, heads in all, size), which lies in memory in that order."""

    tensor: torch.Tensor
    first: int
    count: int

    @property
    def size(self) -> int:
        return self.tensor.shape[-1]

    def gathered(self, index: torch.Tensor) -> torch.Tensor:
        """(n, len(index), size): index counts (row, head) pairs, see `Bucket.pairs`."""
        return self.tensor.flatten(1, 2).index_select(1, index)


@dataclass(frozen=True, eq=False)
class Bucket:
    """B spans of like lengths, padded to Lq queries and Lk keys by repeating a token."""

    queries: torch.Tensor  # (B · Lq,) into the query rows
    keys: torch.Tensor  # (B · Lk,) into the row
    count: int
    lq: int
    lk: int
    bias: torch.Tensor | None
    """Added to the scores, (1 or B, Lq, Lk), −inf where a query does not see a key; None where it sees all."""
    causal: bool
    """Whether the bias is plainly that of a causal sequence, query by query."""
    _pairs: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def pairs(self, which: str, heads: Heads, shared: int) -> torch.Tensor:
        """Places of all numbers of the "queries" or "keys" in a tensor of rows and heads.

        Ordered span by span, then by the `shared` heads that keys have, by the heads that share one, by token: one
        look-up gives matrices as products want them.
        """
        total = heads.tensor.shape[2]
        key = (which, heads.first, heads.count, total, shared)
        if key not in self._pairs:
            rows = getattr(self, which).view(self.count, 1, 1, -1)  # (B, 1, 1, L)
            head = torch.arange(heads.first, heads.first + heads.count, device=rows.device)
            self._pairs[key] = (rows * total + head.view(1, shared, -1, 1)).ravel()
        return self._pairs[key]


class AttentionGroups:
    """Who attends to whom in a row.

    Args:
        spans: each query row in one of them.
        rows: (Q,) the places that the query rows stand for, in their order.
        causal: whether a query sees only keys up to its own position.
        device: where the tensors are put.
    """

    def __init__(self, spans: list[Span], rows: np.ndarray, *, causal: bool, device: torch.device) -> None:
        row_of_place = {int(place): row for row, place in enumerate(rows)}
        spans = sorted(spans, key=lambda span: (len(span.keys), len(span.queries)))
        back = np.empty(len(rows), dtype=np.int64)
        self.buckets: list[Bucket] = []
        start = 0
        for group in _grouped(spans):
            lq, lk = max(len(s.queries) for s in group), max(len(s.keys) for s in group)
            queries = np.empty((len(group), lq), dtype=np.int64)
            keys = np.empty((len(group), lk), dtype=np.int64)
            seen: np.ndarray = np.zeros((len(group), lq, lk), dtype=bool)
            for b, span in enumerate(group):
                own = np.array([row_of_place[int(place)] for place in span.queries])
                queries[b] = np.concatenate([own, np.full(lq - len(own), own[-1])])
                keys[b] = np.concatenate([span.keys, np.full(lk - len(span.keys), span.keys[-1])])
                back[own] = start + b * lq + np.arange(len(own))
                last = np.concatenate([span.positions, np.full(lq - len(own), span.positions[-1])])
                limit = last[:, None] if causal else len(span.keys) - 1
                seen[b] = np.arange(lk) <= limit
            start += queries.size
            # Padding on the right of a causal sequence needs no mask of its own: real queries come before it.
            plain = causal and lq == lk and all(len(s.queries) == len(s.keys) for s in group)
            if plain:
                seen = np.tril(np.ones((1, lq, lk), dtype=bool))
            bias = None if seen.all() else torch.where(torch.from_numpy(seen), 0.0, -torch.inf).to(device)
            self.buckets.append(
                Bucket(
                    torch.from_numpy(queries.ravel()).to(device),
                    torch.from_numpy(keys.ravel()).to(device),
                    len(group),
                    lq,
                    lk,
                    bias,
                    plain,
                )
            )
        self._back = torch.from_numpy(back).to(device)
        self._in_order = bool((back == np.arange(len(rows))).all()) and start == len(rows)
        self._back_by_head: dict[tuple[int, int], torch.Tensor] = {}

    @property
    def scores(self) -> int:
        """Query-key pairs, padding included."""
        return sum(bucket.count * bucket.lq * bucket.lk for bucket in self.buckets)

    @property
    def nbytes(self) -> int:
        """Memory of the masks and indices."""
        kept = [t for b in self.buckets for t in (b.queries, b.keys, b.bias, *b._pairs.values()) if t is not None]
        return sum(t.numel() * t.element_size() for t in (*kept, *self._back_by_head.values()))

    def in_order(self, outputs: list[torch.Tensor]) -> torch.Tensor:
        """(n, Q, …) in the order of the query rows, from the buckets' outputs, each (n, B · Lq, …)."""
        together = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return together if self._in_order else together.index_select(1, self._back)

    def back_by_head(self, shared: int, share: int) -> torch.Tensor:
        """Where (query row, head) stands among the buckets' outputs, each (B, shared, share, Lq), one after another."""
        if (shared, share) not in self._back_by_head:
            parts = []
            start = 0
            for b in self.buckets:
                size = b.count * shared * share * b.lq
                place = torch.arange(start, start + size, device=b.queries.device)
                parts.append(place.view(b.count, shared, share, b.lq).permute(0, 3, 1, 2).reshape(-1, shared * share))
                start += size
            self._back_by_head[shared, share] = torch.cat(parts).index_select(0, self._back).ravel()
        return self._back_by_head[shared, share]


def attend(groups: AttentionGroups, query: Heads, key: Heads, value: Heads, scale: float) -> torch.Tensor:
    """softmax(scale · q kᵀ) v, sequence by sequence.

    Args:
        groups: who attends to whom.
        query: heads of (n or 1, Q, …).
        key: heads of (n or 1, T, …), a divisor of the query's.
        value: as key.
        scale: of the scores.

    Returns:
        (n, Q, heads · size).
    """
    n, shared = max(len(t.tensor) for t in (query, key, value)), key.count
    share = query.count // shared
    outputs = [_one_bucket(bucket, query, key, value, scale, n).view(n, -1, query.size) for bucket in groups.buckets]
    together = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    found = together.index_select(1, groups.back_by_head(shared, share))  # (n, Q · heads, size)
    return found.view(n, -1, query.count * query.size)


def _one_bucket(bucket: Bucket, query: Heads, key: Heads, value: Heads, scale: float, n: int) -> torch.Tensor:
    """(n · B · shared, share · Lq, size)."""
    shared, size = key.count, query.size
    count, lq, lk = bucket.count, bucket.lq, bucket.lk
    q = query.gathered(bucket.pairs("queries", query, shared)).expand(n, -1, -1)  # (n, B · heads · Lq, size)
    k = key.gathered(bucket.pairs("keys", key, shared)).expand(n, -1, -1)
    v = value.gathered(bucket.pairs("keys", value, shared)).expand(n, -1, -1)
    if lq * lk > WRITTEN_DOWN:
        return _blockwise(bucket, q, k, v, scale, shared)
    # Heads that share their keys are one product.
    q = q.reshape(n * count * shared, -1, size)
    k, v = (t.reshape(n * count * shared, lk, size) for t in (k, v))
    scores = torch.bmm(q, k.transpose(1, 2))
    if bucket.bias is None:
        scores.mul_(scale)
    else:
        shaped, bias = scores.view(n, count, shared, -1, lq, lk), bucket.bias[None, :, None, None]
        if scores.requires_grad:  # which `out` does not know
            scores = torch.add(bias, shaped, alpha=scale).view_as(scores)
        else:
            torch.add(bias, shaped, alpha=scale, out=shaped)
    return torch.bmm(torch.softmax(scores, dim=-1), v)


def _blockwise(
    bucket: Bucket, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, shared: int
) -> torch.Tensor:
    """The same through the library's kernel, which never writes all scores down."""
    n, size = len(q), q.shape[-1]
    q = q.reshape(n * bucket.count, -1, bucket.lq, size)
    k, v = (t.reshape(n * bucket.count, shared, bucket.lk, size) for t in (k, v))
    bias = None
    if not bucket.causal and bucket.bias is not None:
        bias = bucket.bias.to(q.dtype)[None].expand(n, bucket.count, -1, -1)
        bias = bias.reshape(n * bucket.count, 1, bucket.lq, bucket.lk)
    return scaled_dot_product_attention(
        q, k, v, attn_mask=bias, is_causal=bucket.causal, scale=scale, enable_gqa=q.shape[1] > shared
    ).reshape(n * bucket.count * shared, -1, size)


def _grouped(spans: list[Span]) -> list[list[Span]]:
    """Neighbours in order of length, in the buckets that cost least: padded pairs plus a price a bucket.

    Solved exactly by dynamic programming over where a bucket ends.
    """
    keys = np.array([len(span.keys) for span in spans])
    queries = np.array([len(span.queries) for span in spans])
    best = np.zeros(len(spans) + 1)
    cut = np.zeros(len(spans) + 1, dtype=np.int64)
    for end in range(1, len(spans) + 1):
        # A bucket start … end − 1: its longest keys are the last ones, its most queries a running maximum.
        most = np.maximum.accumulate(queries[:end][::-1])[::-1]
        cost = best[:end] + (end - np.arange(end)) * keys[end - 1] * most + BUCKET_PRICE
        cut[end] = int(np.argmin(cost))
        best[end] = cost[cut[end]]
    groups: list[list[Span]] = []
    end = len(spans)
    while end:
        groups.append(spans[cut[end] : end])
        end = int(cut[end])
    return groups[::-1]
