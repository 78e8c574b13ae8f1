"""Scales, biases and norms in the fast evaluator: together, where their products are shared, and behind the layers."""

import dataclasses

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import EncoderDecoderEvaluator, ReplayEvaluator, SerialEvaluator
from llm_problem.evaluation.stock import StockEngine, first_moved_layer
from llm_problem.models import load_model
from llm_problem.models.families import FAMILIES
from llm_problem.models.targets import layer_targets
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import DenseDelta, ScaleDelta

FINAL_NORM = lp.subspaces.NormsAndBiases(layers=1, norms=False, biases=False, final_norm=True, scale=0.3)


class Several(BoundSubspace):
    """Subspaces one after another, which may move the same tensors."""

    def __init__(self, *bound):
        self.parts = bound
        self.sizes = [part.dimension for part in bound]
        self.dimension = sum(self.sizes)
        self.parameters = tuple(dict.fromkeys(name for part in bound for name in part.parameters))

    def deltas(self, X):
        parts = X.split(self.sizes, dim=1)
        return [delta for bound, x in zip(self.parts, parts, strict=True) for delta in bound.deltas(x)]

    def basis(self):
        return (tensor for part in self.parts for tensor in part.basis())


class Inputs(BoundSubspace):
    """Scales of the inputs of one projection in one layer."""

    def __init__(self, loaded, name, layer):
        self.target = layer_targets(loaded.model, layer)[name]
        self.weight = self.target.read(loaded.model.get_parameter(self.target.parameter).detach())
        self.dimension, self.parameters = self.target.shape[1], (self.target.parameter,)

    def deltas(self, X):
        return [ScaleDelta(self.target, self.weight, 0.3 * X.to(self.weight), "input")]

    def basis(self):
        return iter(())


class Tensors(BoundSubspace):
    """Some stored tensors, entry by entry."""

    def __init__(self, loaded, *names):
        self.parameters = names
        self.like = [loaded.model.get_parameter(name).detach() for name in names]
        self.dimension = sum(tensor.numel() for tensor in self.like)

    def deltas(self, X):
        parts = (0.1 * X).split([tensor.numel() for tensor in self.like], dim=1)
        return [
            DenseDelta(name, part.to(like).unflatten(1, like.shape))
            for name, part, like in zip(self.parameters, parts, self.like, strict=True)
        ]

    def basis(self):
        return iter(())


def require_agreement(loaded, bound, batch, X, tolerance=3e-6):
    """The fast evaluator of a subspace, after it gave the serial one's values."""
    fast = (EncoderDecoderEvaluator if loaded.kind == "seq2seq" else ReplayEvaluator)(
        loaded, bound, *() if loaded.kind == "seq2seq" else (batch,)
    )
    expected, found = SerialEvaluator(loaded, bound).log_probs(X, batch), fast.log_probs(X, batch)
    expected, found = batch.comparable(expected), batch.comparable(found)
    assert np.abs(expected[1:] - expected[0]).max() > 0.01  # x moves something
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    return fast


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_changes_of_every_kind_add_up_in_one_weight(family, layers, small_model, text_task, points):
    loaded, every = small_model(family, dtype=torch.float64), ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
    bound = Several(
        lp.subspaces.LoRAXS(2, layers=layers, modules=every).bind(loaded, 0),
        lp.subspaces.Scales(layers=layers, modules=every, scale=0.3).bind(loaded, 0),
        lp.subspaces.NormsAndBiases(layers=layers, final_norm=True, scale=0.3).bind(loaded, 0),
        lp.subspaces.SparseProjection(9, layers=layers, modules=every).bind(loaded, 0),
        lp.subspaces.Scales(layers=layers, modules=("v_proj", "down_proj"), scale=0.3).bind(loaded, 0),
    )
    batch, X = text_task.batch(loaded, "search", 0), points(3, bound.dimension)
    fast = require_agreement(loaded, bound, batch, X)
    assert fast.planned
    alone = np.concatenate([fast.log_probs(x[None], batch) for x in X])
    np.testing.assert_array_equal(fast.log_probs(X, batch), alone)


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("task", ["text_task", "label_task"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_norm_alone_keeps_all_layers(family, task, small_model, points, request):
    loaded = small_model(family, dtype=torch.float64)
    bound, batch = FINAL_NORM.bind(loaded, 0), request.getfixturevalue(task).batch(loaded, "search", 0)
    fast = require_agreement(loaded, bound, batch, points(3, bound.dimension))
    assert fast.planned
    assert fast.engine.first == 2
    assert fast.engine.layer_gemms(fast._packed(batch).rows) == []


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize(
    ("subspace", "first"), [(FINAL_NORM, 2), (lp.subspaces.NormsAndBiases(layers=2, final_norm=True, scale=0.3), 1)]
)
def test_whole_stock_layers_below_the_moved_ones_are_kept(
    family, subspace, first, small_model, text_task, points, monkeypatch
):
    monkeypatch.setitem(FAMILIES, family, dataclasses.replace(FAMILIES[family], form=None))
    loaded = small_model(family, dtype=torch.float64)
    bound, batch = subspace.bind(loaded, 0), text_task.batch(loaded, "search", 0)
    fast = require_agreement(loaded, bound, batch, points(3, bound.dimension))
    assert isinstance(fast.engine, StockEngine)
    assert fast.engine.first == first


def test_a_norm_that_is_used_in_a_layer_too_counts_as_that_layers(small_model, text_task, points):
    loaded = small_model("llama", dtype=torch.float64)
    assert first_moved_layer(loaded.model, "model.layers", ("model.norm.weight",)) == 2
    loaded.model.model.norm.weight = loaded.model.model.layers[1].input_layernorm.weight
    assert first_moved_layer(loaded.model, "model.layers", ("model.layers.1.input_layernorm.weight",)) == 1
    loaded.model.model.norm.weight = loaded.model.model.embed_tokens.weight = torch.nn.Parameter(torch.ones(32))
    assert first_moved_layer(loaded.model, "model.layers", ("model.embed_tokens.weight",)) == 0


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize(
    ("family", "name", "planned"),
    [
        ("llama", "o_proj", True),
        ("llama", "up_proj", True),
        ("llama", "v_proj", False),  # its product is one with that of the keys
        ("gpt2", "v_proj", False),
        ("bert", "up_proj", True),
        ("gpt_neox", "o_proj", True),
    ],
)
@pytest.mark.parametrize("layer", [1, 2])
def test_scaled_inputs(family, name, planned, layer, small_model, text_task, points):
    loaded = small_model(family, dtype=torch.float64)
    bound, batch = Inputs(loaded, name, layer), text_task.batch(loaded, "search", 0)
    assert require_agreement(loaded, bound, batch, points(3, bound.dimension)).planned == planned


def test_scaled_inputs_of_the_last_queries(small_model, text_task, points):
    loaded = small_model("llama", dtype=torch.float64)  # there the product of the queries is one of its own
    bound, batch = Inputs(loaded, "q_proj", 2), text_task.batch(loaded, "search", 0)
    assert require_agreement(loaded, bound, batch, points(3, bound.dimension)).planned


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("gpt2", ("attn.c_attn.bias",)),
        ("gpt2", ("attn.c_proj.bias",)),
        ("gpt2", ("ln_1.bias",)),
        ("gpt2", ("ln_2.weight", "mlp.c_fc.bias")),
        ("gpt_neox", ("post_attention_layernorm.weight",)),
        ("gpt_neox", ("input_layernorm.bias",)),
        ("bert", ("attention.output.LayerNorm.weight",)),
        ("bert", ("output.LayerNorm.bias",)),
        ("bert", ("attention.self.key.bias", "attention.self.value.bias")),
        ("qwen3", ("self_attn.q_norm.weight",)),
        ("qwen3", ("self_attn.k_norm.weight",)),
        ("qwen2", ("self_attn.q_proj.bias", "self_attn.v_proj.bias")),
        ("opt", ("fc2.bias",)),
    ],
)
def test_each_small_tensor_alone(family, names, layers, small_model, text_task, points):
    loaded = small_model(family, dtype=torch.float64)
    bound = Tensors(loaded, *(f"{FAMILIES[family].layers}.{3 - layers}.{name}" for name in names))
    fast = require_agreement(loaded, bound, text_task.batch(loaded, "search", 0), points(3, bound.dimension))
    assert fast.planned
    assert fast.engine.first == 3 - layers


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("name", ["mlp.up_proj.weight", "input_layernorm.weight"])
def test_whole_weights_need_stock_layers(name, small_model, text_task, points):
    loaded = small_model("llama", dtype=torch.float64)
    bound = Tensors(loaded, f"model.layers.2.{name}")
    fast = require_agreement(loaded, bound, text_task.batch(loaded, "search", 0), points(3, bound.dimension))
    assert fast.planned == (name == "input_layernorm.weight")
    assert fast.engine.first == 2


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "qwen3"])
@pytest.mark.parametrize(
    "subspace",
    [lp.subspaces.Scales(layers=2), lp.subspaces.NormsAndBiases(layers=2, final_norm=True)],
    ids=lambda subspace: subspace.kind,
)
def test_half_precision(family, subspace, small_pair, text_task, points):
    loaded = load_model(small_pair(family, dtype=torch.bfloat16))
    bound, batch = subspace.bind(loaded, 0), text_task.batch(loaded, "search", 0)
    X = points(3, bound.dimension)
    require_agreement(loaded, bound, batch, X, 0.2)
    loaded = load_model(small_pair(family))
    bound = subspace.bind(loaded, 0)
    fast = ReplayEvaluator(loaded, bound, batch, precision="bfloat16")
    expected = SerialEvaluator(loaded, bound).log_probs(X, batch)
    np.testing.assert_allclose(fast.log_probs(X, batch), expected, rtol=0, atol=0.2)


def test_the_final_norm_of_a_decoder_keeps_its_layers_below_the_last(small_model, text_task, label_task, points):
    loaded = small_model("t5", dtype=torch.float64)
    bound, batch = FINAL_NORM.bind(loaded, 0), label_task.batch(loaded, "search", 0)
    fast = require_agreement(loaded, bound, batch, points(3, bound.dimension))
    assert "decoder layers 0 to 1 of 3" in fast.description
