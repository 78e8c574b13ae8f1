"""Attention over packed sequences against attention over each of them, written out."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from llm_problem.evaluation.packed_attention import NAME, attention_packed, packed_attention


class Module:
    def __init__(self, is_causal):
        self.is_causal = is_causal


def attention_by_hand(query, key, value, causal, scale):
    """(heads, t, size) each → (t, heads, size)."""
    scores = np.einsum("hqd,hkd->hqk", query, key) * scale
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,hkd->qhd", weights / weights.sum(-1, keepdims=True), value)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bounds", [(0, 7), (0, 1, 2, 7), (0, 3, 4, 7)])
def test_each_sequence_attends_to_itself_alone(bounds, groups, causal):
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((h, 7, 6)) for h in (4, 4 // groups, 4 // groups))
    packed, weights = packed_attention(
        Module(causal),
        *(torch.from_numpy(t)[None] for t in (query, key, value)),
        None,
        scaling=0.3,
        packed_bounds=bounds,
    )
    parts = [
        attention_by_hand(query[:, a:b], *(np.repeat(t[:, a:b], groups, axis=0) for t in (key, value)), causal, 0.3)
        for a, b in pairwise(bounds)
    ]
    assert weights is None
    np.testing.assert_allclose(packed[0].numpy(), np.concatenate(parts), atol=1e-12)


def test_what_the_call_says_of_causality_goes_before_what_the_module_says():
    tensors = torch.randn(3, 1, 2, 5, 4).double()
    asked, _ = packed_attention(Module(True), *tensors, None, packed_bounds=(0, 5), is_causal=False)
    meant, _ = packed_attention(Module(False), *tensors, None, packed_bounds=(0, 5))
    assert torch.equal(asked, meant)


def test_without_bounds_it_refuses():
    with pytest.raises(RuntimeError, match="without the bounds"):
        packed_attention(Module(True), *torch.randn(3, 1, 2, 5, 4), None)


def test_a_stock_forward_while_packed_is_refused_and_not_wrong(small_model):
    model = small_model("llama").model
    with attention_packed(model), pytest.raises(RuntimeError, match="without the bounds"):
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
