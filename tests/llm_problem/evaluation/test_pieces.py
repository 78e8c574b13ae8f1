"""The short cuts of the fast evaluator against the long way round: affine scores, shared beginnings, blocks, limits."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import ReplayEvaluator, SerialEvaluator, affine_attention, layer, reading
from llm_problem.evaluation.packing import pack
from llm_problem.evaluation.pieces import norm, root_mean_square_norm
from llm_problem.models.families import FAMILIES
from llm_problem.tasks.batch import BatchBuilder

pytestmark = pytest.mark.usefixtures("narrow_chunks")
LAST = lp.subspaces.LoRAXS(2, layers=1)


def evaluator_of(loaded, subspace, batch, **options):
    return ReplayEvaluator(loaded, subspace.bind(loaded, 0), batch, **options)


@pytest.mark.parametrize("passes", [0, 16], ids=["as a product", "in passes"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("modules", [("q_proj", "v_proj"), ("v_proj",), ("q_proj",), ("k_proj",), ("q_proj", "k_proj")])
@pytest.mark.parametrize("family", FAMILIES)
def test_affine_scores_are_the_scores(family, modules, layers, passes, small_model, label_task, points, monkeypatch):
    loaded = small_model(family)
    batch = label_task.batch(loaded, "search", 0)
    subspace = lp.subspaces.LoRAXS(2, layers=layers, modules=modules)
    monkeypatch.setattr(affine_attention, "PASSES", passes)
    short = evaluator_of(loaded, subspace, batch)
    X = points(3, short.subspace.dimension)
    found = short.log_probs(X, batch)
    used = short._packed(batch).kept[0].memo["affine"] is not None
    assert used == ("k_proj" not in modules and not (family == "qwen3" and "q_proj" in modules))
    monkeypatch.setattr(layer, "affine_attention", lambda *_: None)
    long = evaluator_of(loaded, subspace, batch)
    np.testing.assert_allclose(found, long.log_probs(X, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("subspace", "affine"),
    [
        (lp.subspaces.VeRA(3, layers=1), True),
        (lp.subspaces.SingularValues(2, layers=2), True),
        (lp.subspaces.SingularValues(layers=1, modules="v_proj"), True),
        (lp.subspaces.SingularValues(layers=1), False),  # a full rank makes more numbers than the queries have
        (lp.subspaces.LoRA(2, layers=1), False),
        (lp.subspaces.VeRA(3, layers=1, searched="b"), False),
    ],
    ids=str,
)
@pytest.mark.parametrize("limit", [32_000_000, 3_000])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_affine_scores_of_diagonal_cores(family, limit, subspace, affine, small_model, label_task, points, monkeypatch):
    monkeypatch.setattr(affine_attention, "LIMIT", limit)
    loaded = small_model(family, dtype=torch.float64)
    batch = label_task.batch(loaded, "search", 0)
    fast = evaluator_of(loaded, subspace, batch)
    X = points(3, fast.subspace.dimension)
    found = fast.log_probs(X, batch)
    assert (fast._packed(batch).kept[0].memo["affine"] is not None) == (affine and limit > 3_000)
    slow = SerialEvaluator(loaded, fast.subspace)
    found, expected = (batch.comparable(values) for values in (found, slow.log_probs(X, batch)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_common_beginnings_are_computed_once():
    builder = BatchBuilder()
    for ids in ([7, 8, 9, 1], [7, 8, 9, 2, 3], [7, 8, 9], [5, 7], [7, 8, 9, 2, 3]):
        builder.start_example(0)
        builder.read(builder.add_sequence(ids), len(ids) - 1, ids[0], 0)
    batch = builder.build()
    row = pack(batch, range(5), causal=True, offset=0, device=torch.device("cpu"))
    assert row.tokens == len({tuple(s[:k].tolist()) for s in batch.sequences for k in range(1, len(s) + 1)}) == 8
    assert len(row.keep) == 4  # two sequences are the same, and one is the beginning of others
    assert pack(batch, range(5), causal=False, offset=0, device=torch.device("cpu")).tokens == batch.tokens


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt"])
def test_sequences_that_begin_alike_have_their_own_values(family, small_model, points):
    loaded = small_model(family, dtype=torch.float64)
    rng = np.random.default_rng(0)
    builder, stem = BatchBuilder(), rng.integers(5, 261, 9).tolist()
    for k in range(8):
        builder.start_example(0)
        own = stem[: 9 - k // 2] + rng.integers(5, 261, k % 4).tolist()
        sequence = builder.add_sequence(own)
        for position in range(len(own)):
            builder.read(sequence, position, int(rng.integers(5, 261)), 0)
    batch = builder.build()
    fast = evaluator_of(loaded, lp.subspaces.LoRAXS(2, layers=2), batch)
    assert fast._packed(batch).rows[0].tokens < batch.tokens
    X = points(3, fast.subspace.dimension)
    slow = SerialEvaluator(loaded, fast.subspace)
    np.testing.assert_allclose(fast.log_probs(X, batch), slow.log_probs(X, batch), rtol=0, atol=3e-6)


@pytest.mark.parametrize(("block", "logits"), [(7, 70), (1000, 1), (64, 10**6)])
def test_the_vocabulary_in_blocks_is_the_vocabulary(block, logits, small_model, text_task, points, monkeypatch):
    loaded = small_model("llama")
    batch = text_task.batch(loaded, "search", 0)
    X = points(3, LAST.bind(loaded, 0).dimension)
    expected = evaluator_of(loaded, LAST, batch).log_probs(X, batch)
    monkeypatch.setattr(reading, "BLOCK", block)
    monkeypatch.setattr(reading, "LOGITS", logits)
    found = evaluator_of(loaded, LAST, batch).log_probs(X, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6)


def test_large_logits_do_not_overflow(small_model, text_task, points, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 50)
    loaded = small_model("llama")
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(1e3)
    batch = text_task.batch(loaded, "search", 0)
    fast = evaluator_of(loaded, LAST, batch)
    X = points(2, fast.subspace.dimension)
    expected = SerialEvaluator(loaded, fast.subspace).log_probs(X, batch)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(fast.log_probs(X, batch), expected, rtol=1e-5)


@pytest.mark.parametrize("subspace", [LAST, lp.subspaces.FullVector()], ids=["pieces", "stock layers"])
def test_past_the_limit_it_is_computed_again_with_the_same_values(subspace, small_model, label_task, points):
    loaded = small_model("llama")
    batch = label_task.batch(loaded, "search", 0)
    free, none = (evaluator_of(loaded, subspace, batch, memory=memory) for memory in (1 << 30, 0))
    X = points(3, free.subspace.dimension)
    X *= 0.1
    np.testing.assert_allclose(none.log_probs(X, batch), free.log_probs(X, batch), rtol=0, atol=1e-5)
    assert none.memory(batch)["kept_activations"] == 0
    if subspace is LAST:
        assert none.memory(batch)["rows_recomputed"] == none.memory(batch)["rows"] == 1
        assert free.memory(batch)["kept_activations"] > 0
    assert free.memory(batch)["rows_recomputed"] == 0


def test_the_card_says_what_memory_is_used(tiny_gpt2, text_task):
    problem = lp.Problem(tiny_gpt2, text_task, LAST, memory_limit=0)
    problem(problem.x0)
    assert problem.card()["memory"]["limit"] == 0
    assert problem.card()["memory"]["rows_recomputed"] == 1
    with pytest.raises(ValueError, match="memory_limit must be a number of bytes"):
        lp.Problem(tiny_gpt2, text_task, LAST, memory_limit=-1)


@pytest.mark.parametrize(
    "subspace",
    [LAST, lp.subspaces.LoRA(2, layers=1), lp.subspaces.SingularValues(layers=2)],
    ids=lambda subspace: subspace.kind,
)
def test_products_in_bfloat16_are_near_and_said(subspace, tiny_gpt2, text_task, points):
    exact, near = (lp.Problem(tiny_gpt2, text_task, subspace, dtype=dtype) for dtype in ("float32", "bfloat16"))
    X = points(4, exact.dimension)
    difference = np.abs(exact.evaluate(X) - near.evaluate(X)).max()
    assert 0 < difference < 0.02
    assert near.card()["dtype"] == near.spec.dtype == "bfloat16"
    assert "bfloat16" in near.card()["evaluator"]
    assert near.fingerprint != exact.fingerprint
    with pytest.raises(ValueError, match="reference in the model's own precision"):
        lp.Problem(tiny_gpt2, text_task, subspace, dtype="bfloat16", evaluator="serial")
    with pytest.raises(ValueError, match="other precisions need layers run piece by piece"):
        lp.Problem(tiny_gpt2, text_task, lp.subspaces.FullVector(), dtype="bfloat16")


def test_a_shorter_norm_is_the_models(small_model):
    module = small_model("llama").model.model.norm
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)) * 3
    np.testing.assert_allclose(norm(module)(x).numpy(), module(x).numpy(), rtol=2e-6)
    expected = x / (x**2).mean(-1, keepdim=True).add(0.1).sqrt() * 2
    found = root_mean_square_norm(x, weight=torch.full((32,), 2.0), epsilon=0.1)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)


def test_a_norm_that_is_another_is_left_as_it_is():
    class Plus(torch.nn.Module):  # like Gemma's: the weight is counted from one
        def __init__(self):
            super().__init__()
            self.weight, self.variance_epsilon = torch.nn.Parameter(torch.zeros(8)), 1e-6

        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * (1 + self.weight)

    module = Plus()
    assert norm(module) is module
