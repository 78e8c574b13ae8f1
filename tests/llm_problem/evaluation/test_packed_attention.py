"""Attention over packed sequences against attention over each of them, written out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_problem.evaluation import attention
from llm_problem.evaluation.attention import AttentionGroups, Heads, Span, attend
from llm_problem.evaluation.packed_attention import NAME, attention_packed, packed_attention

CPU = torch.device("cpu")


def attention_by_hand(query, key, value, positions, causal, scale):
    """Queries (heads, q, size) at positions (q,) of keys (heads, k, size) → (q, heads, size)."""
    scores = np.einsum("hqd,hkd->hqk", query, key) * scale
    if causal:
        scores = np.where(np.arange(scores.shape[2]) <= positions[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,hkd->qhd", weights / weights.sum(-1, keepdims=True), value)


def whole(bounds):
    """Spans of sequences that stand one after another, all tokens asking."""
    return [Span(np.arange(a, b), np.arange(b - a), np.arange(a, b)) for a, b in pairwise(bounds)]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("share", [1, 2, 4])
@pytest.mark.parametrize("bounds", [(0, 7), (0, 1, 2, 7), (0, 3, 4, 7)])
def test_each_sequence_attends_to_itself_alone(bounds, share, causal):
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((h, 7, 6)) for h in (4, 4 // share, 4 // share))
    groups = AttentionGroups(whole(bounds), np.arange(7), causal=causal, device=CPU)
    packed, weights = packed_attention(
        None, *(torch.from_numpy(t)[None] for t in (query, key, value)), None, scaling=0.3, packed=groups
    )
    parts = [
        attention_by_hand(
            query[:, a:b], *(np.repeat(t[:, a:b], share, axis=0) for t in (key, value)), np.arange(b - a), causal, 0.3
        )
        for a, b in pairwise(bounds)
    ]
    assert weights is None
    np.testing.assert_allclose(packed[0].numpy(), np.concatenate(parts), atol=1e-12)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    share=st.sampled_from([1, 3]),
    shared=st.sampled_from([1, 2]),
    causal=st.booleans(),
    n=st.integers(1, 3),
    fixed=st.booleans(),
    price=st.sampled_from([0, 30, 10_000]),
    written=st.sampled_from([0, 10_000]),
    seed=st.integers(0, 99),
)
def test_chosen_queries_of_any_sequences(lengths, share, shared, causal, n, fixed, price, written, seed):
    # Any places may ask; keys of a sequence may stand anywhere, and belong to several sequences.
    rng = np.random.default_rng(seed)
    total, size = sum(lengths), 4
    spans, asked = [], []
    for length in lengths:
        keys = rng.choice(total, size=length, replace=False)
        positions = np.sort(rng.choice(length, size=rng.integers(1, length + 1), replace=False))
        free = [p for p in positions.tolist() if keys[p] not in asked]
        if free:
            asked += keys[free].tolist()
            spans.append(Span(keys[free], np.array(free), keys))
    rows = rng.permutation(asked)
    q = rng.standard_normal((n, len(rows), share * shared, size))
    memory = rng.standard_normal((1 if fixed else n, total, 2 * shared + 1, size))  # one head in front is nobody's
    old = attention.BUCKET_PRICE, attention.WRITTEN_DOWN
    attention.BUCKET_PRICE, attention.WRITTEN_DOWN = price, written
    try:
        groups = AttentionGroups(spans, rows, causal=causal, device=CPU)
        mem = torch.from_numpy(memory)
        found = attend(
            groups,
            Heads(torch.from_numpy(q), 0, share * shared),
            Heads(mem, 1, shared),
            Heads(mem, 1 + shared, shared),
            0.7,
        ).numpy()
    finally:
        attention.BUCKET_PRICE, attention.WRITTEN_DOWN = old
    assert found.shape == (n, len(rows), share * shared * size)
    row_of = {place: row for row, place in enumerate(rows.tolist())}
    for i in range(n):
        for span in spans:
            own = [row_of[p] for p in span.queries.tolist()]
            kv = memory[0 if fixed else i][span.keys]
            k, v = (
                np.repeat(kv[:, c].transpose(1, 0, 2), share, axis=0)
                for c in (slice(1, 1 + shared), slice(1 + shared, None))
            )
            expected = attention_by_hand(q[i][own].transpose(1, 0, 2), k, v, span.positions, causal, 0.7)
            np.testing.assert_allclose(found[i][own].reshape(expected.shape), expected, atol=1e-12)


def test_buckets_cost_least():
    # Two clusters of lengths, far apart: two buckets; a high price: one.
    spans = whole(np.cumsum([0, *[4] * 50, *[60] * 50]).tolist())
    groups = AttentionGroups(spans, np.arange(3200), causal=True, device=CPU)
    assert [(b.count, b.lk) for b in groups.buckets] == [(50, 4), (50, 60)]
    assert groups.scores == 50 * (16 + 3600)


def test_sizes_that_differ_a_little_share_a_bucket():
    spans = whole(np.cumsum([0, 20, 21, 22, 20]).tolist())
    assert len(AttentionGroups(spans, np.arange(83), causal=True, device=CPU).buckets) == 1


def test_without_sequences_it_refuses():
    tensors = [torch.zeros(1, 2, 3, 4)] * 3
    with pytest.raises(RuntimeError, match="which sequences there are"):
        packed_attention(None, *tensors, None)


def test_a_stock_forward_while_packed_is_refused_and_not_wrong(small_model):
    model = small_model("llama").model
    with attention_packed(model), pytest.raises(RuntimeError, match="which sequences there are"):
        model(torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_the_models_own_attention_comes_back(family, before, small_model, model_state):
    model = small_model(family).model
    model.set_attn_implementation(before)
    state = model_state(model)
    with pytest.raises(KeyError, match="in the middle"), attention_packed(model):
        assert model.config._attn_implementation == NAME
        raise KeyError("in the middle")
    assert model_state(model) == state
