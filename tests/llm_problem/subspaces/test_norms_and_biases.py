"""Norms and biases: which tensors they are, against PEFT's choice and BitFit's rule, and how large their steps are."""

import copy

import numpy as np
import pytest
import torch
from peft import LNTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from llm_problem.models import load_model
from llm_problem.models.norms import counted_from, is_norm
from llm_problem.subspaces import NormsAndBiases
from llm_problem.subspaces.scale import LOW_RANK_STEP


def parameters(loaded, **choice):
    return NormsAndBiases(**choice).bind(loaded, 0).parameters


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_norms_are_those_of_pefts_layer_norm_tuning(family, small_model):
    loaded = small_model(family)
    model = get_peft_model(copy.deepcopy(loaded.model), LNTuningConfig(task_type="CAUSAL_LM"))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    theirs = {name.removeprefix("base_model.model.").replace("ln_tuning_layers.default.", "") for name in trained}
    assert set(parameters(loaded, biases=False, final_norm=True)) == theirs


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt", "bert", "roberta", "bloom", "marian", "qwen2"])
def test_biases_and_norms_are_all_small_tensors_of_the_layers(family, small_model):
    loaded = small_model(family)
    stack = {"marian": "decoder.layers", "opt": "decoder.layers"}.get(family)
    named = [
        (name, p)
        for name, p in loaded.model.named_parameters()
        if p.ndim == 1 and (stack in name if stack else any(part.isdigit() for part in name.split(".")))
    ]
    assert set(parameters(loaded)) == {name for name, _ in named}
    biases = set(parameters(loaded, norms=False))
    norms = set(parameters(loaded, biases=False))
    assert not biases & norms
    assert all("norm" in name.lower() or "ln_" in name for name in norms)
    assert all(name.endswith(".bias") and "norm" not in name.lower() for name in biases)  # BitFit


def test_the_norms_of_queries_and_keys_are_norms(small_model):
    names = parameters(small_model("qwen3"), layers=1)
    assert {name.split(".")[-2] for name in names} == {
        "input_layernorm",
        "post_attention_layernorm",
        "q_norm",
        "k_norm",
    }


@pytest.mark.parametrize(
    ("family", "final"),
    [
        ("llama", "model.norm.weight"),
        ("gpt2", "transformer.ln_f.bias"),
        ("gpt_neox", "gpt_neox.final_layer_norm.bias"),
        ("opt", "model.decoder.final_layer_norm.bias"),
        ("bert", "cls.predictions.transform.LayerNorm.bias"),
        ("roberta", "lm_head.layer_norm.bias"),
        ("bloom", "transformer.ln_f.bias"),
        ("t5", "decoder.final_layer_norm.weight"),
    ],
)
def test_the_final_norm(family, final, small_model):
    loaded = small_model(family)
    alone = parameters(loaded, norms=False, biases=False, final_norm=True)
    assert alone[-1] == final
    assert len({name.rpartition(".")[0] for name in alone}) == 1
    assert parameters(loaded, layers=1, final_norm=True) == parameters(loaded, layers=1) + alone


def test_layers_are_the_decoders(small_model):
    names = parameters(small_model("t5"), layers=[0, -1])
    assert {name.rsplit(".layer.", 1)[0] for name in names} == {"decoder.block.0", "decoder.block.2"}
    assert len(names) == 2 * 3  # of attention, cross attention and the MLP


def test_coordinates_stand_group_by_group(small_model):
    loaded = small_model("gpt2")
    bound = NormsAndBiases(layers=2, final_norm=True).bind(loaded, 0)
    assert bound.blocks == (2 * 4 * 32, 2 * (96 + 32 + 128 + 32), 2 * 32)
    assert sum(bound.blocks) == bound.dimension
    norms = [name for name in bound.parameters if ".ln_1." in name or ".ln_2." in name]
    assert bound.parameters[: len(norms)] == tuple(norms)
    assert NormsAndBiases(layers=2, biases=False).bind(loaded, 0).blocks == ()


@pytest.mark.parametrize(("family", "moved"), [("gpt2", 16), ("llama", 4)])
def test_default_step_is_the_set_share_of_each_tensor(family, moved, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = NormsAndBiases(layers=2).bind(loaded, 0)
    assert len(bound.parameters) == moved
    X = torch.from_numpy(np.random.default_rng(0).standard_normal((500, bound.dimension)))
    for delta in bound.deltas(X):
        size = float(dict(loaded.model.named_parameters())[delta.parameter].detach().norm())
        found = float(delta.value.flatten(1).square().sum(dim=1).mean().sqrt())
        assert found / size == pytest.approx(LOW_RANK_STEP * np.sqrt(3 / moved), rel=0.05)


@pytest.mark.parametrize("family", ["gpt2", "opt"])  # whose weights are stored as (in, out) and as (out, in)
def test_a_zero_bias_steps_by_a_share_of_what_its_module_gives_for_unit_inputs(family, small_model):
    loaded = small_model(family, dtype=torch.float64)
    name, norm = {
        "gpt2": ("transformer.h.2.mlp.c_fc", "transformer.h.2.ln_1"),
        "opt": ("model.decoder.layers.2.fc1", "model.decoder.layers.2.self_attn_layer_norm"),
    }[family]
    up, norm = loaded.model.get_submodule(name), loaded.model.get_submodule(norm)
    with torch.no_grad():
        up.bias.zero_()
        norm.bias.zero_()
        inputs = torch.randn(20_000, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        typical = float(up(inputs).square().mean().sqrt())
    bound = NormsAndBiases(layers=1, scale=0.1).bind(loaded, 0)
    steps = dict(zip(bound.parameters, bound.steps, strict=True))
    assert steps[f"{name}.bias"] == pytest.approx(0.1 * typical, rel=0.02)
    gain = float(norm.weight.detach().square().mean().sqrt())
    (step,) = (s for n, s in steps.items() if loaded.model.get_parameter(n) is norm.bias)
    assert step == pytest.approx(0.1 * gain)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_gain_without_a_size_is_refused(value, small_model):
    loaded = small_model("llama")
    with torch.no_grad():
        loaded.model.model.layers[2].input_layernorm.weight.fill_(value)
    with pytest.raises(ValueError, match=r"model\.layers\.2\.input_layernorm\.weight is zero or not finite"):
        NormsAndBiases(layers=1).bind(loaded, 0)


@pytest.mark.parametrize(
    ("family", "choice", "message"),
    [
        ("llama", {"norms": False}, r"has no biases to move here; there are norms \(6\), final_norm \(1\)"),
        ("t5", {"norms": False}, r"has no biases to move here; there are norms \(9\), final_norm \(1\)"),
        ("marian", {"final_norm": True, "layers": 1}, r"has no final_norm to move here; there are norms \(3\), biases"),
        ("llama", {"layers": 7}, "from 1 to 3"),
    ],
)
def test_what_a_model_does_not_have_is_refused(family, choice, message, small_model):
    with pytest.raises(ValueError, match=message):
        NormsAndBiases(**choice).bind(small_model(family), 0)


def test_a_model_without_biases_is_searched_by_its_norms(small_model):
    loaded = small_model("llama")
    assert parameters(loaded) == parameters(loaded, biases=False)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"norms": False, "biases": False}, "at least one of norms, biases and final_norm"),
        ({"norms": "yes"}, "norms must be True or False, got 'yes'"),
        ({"final_norm": 1}, "final_norm must be True or False, got 1"),
        ({"layers": "last"}, "layers must be k for the last k layers"),
    ],
)
def test_choices_that_mean_nothing_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        NormsAndBiases(**choice)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_gains_that_are_counted_from_one_take_steps_of_the_gain(family):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, vocab_size=64, num_key_value_heads=4, head_dim=8, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    norms = [module for module in model.modules() if is_norm(module)]
    assert all(not norm.weight.any() and counted_from(norm) == 1 for norm in norms)  # a new one: gains of 1
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.fill_(1.0)  # a gain of 2
    loaded = load_model((model, load_model("tiny-gpt2").tokenizer))
    bound = NormsAndBiases(biases=False, scale=0.1).bind(loaded, 0)
    expected = [0.2 if name == "model.layers.0.input_layernorm.weight" else 0.1 for name in bound.parameters]
    np.testing.assert_allclose(bound.steps.numpy(), expected)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "t5", "qwen3"])
def test_other_gains_are_their_weights(family, small_model):
    norms = [module for module in small_model(family).model.modules() if is_norm(module)]
    assert norms and all(counted_from(norm) == 0 for norm in norms)


def test_a_gain_of_zeros_has_no_size(small_pair):
    model, tokenizer = small_pair("llama")
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.zero_()
    with pytest.raises(
        ValueError, match=r"input_layernorm.weight is zero or not finite.*leave it out \(layers, norms=Fa"
    ):
        NormsAndBiases().bind(load_model((model, tokenizer)), 0)
