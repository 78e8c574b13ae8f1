"""Scales are PEFT's IA3: the same logits for the same vectors, biases and the feed-forward's input included."""

import copy

import numpy as np
import pytest
import torch
from peft import IA3Config, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models import load_model
from llm_problem.subspaces.deltas import DenseDelta, ScaleDelta
from llm_problem.subspaces.scale import LOW_RANK_STEP

# Family: the modules that PEFT scales, those of them at their input, and the same modules by our names.
IA3 = {
    "llama": (("k_proj", "v_proj", "down_proj"), ("down_proj",), ("k_proj", "v_proj", "down_proj")),
    "qwen2": (("k_proj", "v_proj", "down_proj"), ("down_proj",), ("k_proj", "v_proj", "down_proj")),
    "gpt2": (("c_attn", "mlp.c_proj"), ("mlp.c_proj",), ("attn.c_attn", "down_proj")),
    "gpt_neox": (
        ("query_key_value", "dense_4h_to_h"),
        ("dense_4h_to_h",),
        ("attention.query_key_value", "mlp.dense_4h_to_h"),
    ),
    "opt": (("k_proj", "v_proj", "fc2"), ("fc2",), ("k_proj", "v_proj", "fc2")),
}


def ia3(loaded, targets, feed_forward, x):
    """PEFT's IA3 model on a copy of a model, its vectors, layer by layer, set to 1 + x."""
    config = IA3Config(
        target_modules=list(targets),
        feedforward_modules=list(feed_forward),
        fan_in_fan_out=loaded.model.config.model_type == "gpt2",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(copy.deepcopy(loaded.model), config).eval()
    layers = {}
    for name, module in model.named_modules():
        if hasattr(module, "ia3_l"):
            number = int(next(part for part in name.split(".") if part.isdigit()))
            order = next(k for k, target in enumerate(targets) if name.endswith(target))
            layers[number, order] = module.ia3_l["default"]
    with torch.no_grad():
        for key in sorted(layers):
            vector = layers[key]
            vector.copy_(1 + torch.from_numpy(x[: vector.numel()]).reshape(vector.shape))
            x = x[vector.numel() :]
    assert not x.size
    return model


@pytest.mark.parametrize(
    ("family", "changes"),
    [*((family, {}) for family in IA3), ("llama", {"attention_bias": True, "mlp_bias": True})],
    ids=lambda value: value if isinstance(value, str) else "biased" if value else "",
)
@torch.no_grad()
def test_logits_are_those_of_pefts_ia3(family, changes, small_model):
    loaded = small_model(family, dtype=torch.float64, **changes)
    targets, feed_forward, modules = IA3[family]
    bound = lp.subspaces.Scales(modules=modules, scale=0.5).bind(loaded, 0)
    x = np.random.default_rng(0).standard_normal(bound.dimension)
    ids = torch.tensor([[5, 9, 130, 7, 200]])
    expected = ia3(loaded, targets, feed_forward, 0.5 * x)(ids).logits
    with SerialEvaluator(loaded, bound).changed(x[None]):
        found = loaded.model(ids).logits
    assert (expected - loaded.model(ids).logits).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)  # root mean square norms are in single precision


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_fused_projections_are_scaled_row_by_row(family, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = lp.subspaces.Scales(layers=1, modules=("k_proj", "v_proj"), scale=1.0).bind(loaded, 0)
    x = np.random.default_rng(0).standard_normal((1, bound.dimension))
    changed = {}
    for delta in bound.deltas(torch.from_numpy(x)):
        before = changed.get(delta.parameter, dict(loaded.model.named_parameters())[delta.parameter].detach())
        changed[delta.parameter] = delta.apply(before, 0)
    weight, bias = changed.values()
    fused = [p.detach() for name, p in loaded.model.named_parameters() if name in changed]
    scales = torch.ones(96, dtype=torch.float64)
    heads = scales.view(3, 32) if family == "gpt2" else scales.view(4, 3, 8).transpose(0, 1)  # q, k, v first
    heads[1:] += torch.from_numpy(x).view(2, *heads.shape[1:])
    torch.testing.assert_close(weight, fused[0] * (scales if family == "gpt2" else scales[:, None]))
    torch.testing.assert_close(bias, fused[1] * scales)
    assert len(bound.parameters) == len(set(bound.parameters)) == 2


def test_each_side_and_bias(small_model):
    loaded = small_model("opt")
    bound = lp.subspaces.Scales(layers=1, modules=("up_proj", "fc2")).bind(loaded, 0)
    up, down, bias = bound.deltas(torch.ones(1, bound.dimension, dtype=torch.float64))
    assert isinstance(up, ScaleDelta) and up.side == "output" and up.value.shape == (1, 48)
    assert isinstance(down, ScaleDelta) and down.side == "input" and down.value.shape == (1, 48)
    assert isinstance(bias, DenseDelta) and bias.parameter.endswith("fc1.bias")  # that of fc2 stays
    assert bound.dimension == 96


def test_an_encoder_has_a_down_projection_too(small_model):
    bound = lp.subspaces.Scales(layers=1, modules=("encoder.down_proj", "cross_k_proj")).bind(small_model("t5"), 0)
    down, cross = bound.deltas(torch.ones(1, bound.dimension, dtype=torch.float64))
    assert (down.target.parameter, down.side) == ("encoder.block.1.layer.1.DenseReluDense.wo.weight", "input")
    assert cross.side == "output"


def test_a_family_that_is_not_listed_is_scaled_at_its_outputs(small_model):
    bound = lp.subspaces.Scales(layers=1, modules=("mlp.dense_4h_to_h",)).bind(small_model("bloom"), 0)
    assert [delta.side for delta in bound.deltas(torch.zeros(1, 32, dtype=torch.float64))[:1]] == ["output"]


def test_what_a_family_that_is_not_listed_calls_down_proj_is_scaled_at_its_input():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("phi3", vocab_size=64, num_key_value_heads=4, pad_token_id=0, **sizes)
    loaded = load_model((AutoModelForCausalLM.from_config(config), load_model("tiny-gpt2").tokenizer))
    bound = lp.subspaces.Scales(layers=1, modules=("down_proj", "qkv_proj")).bind(loaded, 0)
    assert [(delta.side, delta.target.shape) for delta in bound.deltas(torch.zeros(1, 144, dtype=torch.float64))] == [
        ("input", (32, 48)),
        ("output", (96, 32)),
    ]


def test_default_step_is_the_set_share_of_each_weight(small_model):
    loaded = small_model("llama", dtype=torch.float64)
    bound = lp.subspaces.Scales(layers=2).bind(loaded, 0)
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((300, bound.dimension)))
    for delta in bound.deltas(X):
        weight = dict(loaded.model.named_parameters())[delta.parameter].detach()
        squares = [float((delta.apply(weight, i) - weight).square().sum()) for i in range(len(X))]
        expected = LOW_RANK_STEP * np.sqrt(3 / 6) * float(weight.norm())
        assert np.sqrt(np.mean(squares)) == pytest.approx(expected, rel=0.05)
