"""Layers that share weights: a weight that several of them use is one, and moving it moves them all."""

import copy

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models import load_model
from llm_problem.subspaces import LoRA, LoRAXS, NormsAndBiases, RandomSubspace, Scales, SingularValues, SoftPrompt, VeRA
from llm_problem.testing.exported import log_probs


@pytest.fixture
def one_layer(small_pair):
    """A BERT of which every layer is the first one."""
    model, tokenizer = small_pair("bert")
    stack = model.bert.encoder.layer
    for k in range(1, len(stack)):
        stack[k] = stack[0]
    return model, tokenizer


@pytest.fixture
def one_weight(small_pair):
    """A GPT-2 of which the last two layers have one weight for their queries, keys and values, and biases apart."""
    model, tokenizer = small_pair("gpt2")
    model.transformer.h[2].attn.c_attn.weight = model.transformer.h[1].attn.c_attn.weight
    return model, tokenizer


SUBSPACES = [  # with a scale: nothing is to be measured
    LoRAXS(2, scale=0.1),
    LoRA(2, layers=1, scale=0.1),
    RandomSubspace(3, layers=2, scale=1),
    SingularValues(2, layers=1, scale=0.1),
    Scales(layers=2, scale=0.1),
    VeRA(3, scale=0.1),
    NormsAndBiases(layers=2, scale=0.1),
    SoftPrompt("Say: ", 3, scale=1),
]


@pytest.mark.parametrize("subspace", SUBSPACES, ids=lambda subspace: subspace.kind)
@pytest.mark.parametrize(("pair", "family"), [("one_layer", "bert"), ("one_weight", "gpt2")])
def test_the_loss_is_that_of_a_model_that_shares_nothing(
    pair, family, subspace, request, small_pair, text_task, points
):
    model, tokenizer = request.getfixturevalue(pair)
    problem = lp.Problem((model, tokenizer), text_task, subspace)
    x = points(2, problem.dimension)[1]
    assert problem.card()["evaluator"].startswith("serial (not replayable: its layers share weights)")
    found = problem(x)
    assert abs(found - problem(problem.x0)) > 1e-4
    if not problem.subspace.prompt:
        apart, _ = small_pair(family)
        with problem.evaluator.changed(x[None]):
            apart.load_state_dict(model.state_dict())  # which has every name of a shared tensor
        batch = problem.batch("search")
        assert text_task.scores(log_probs(apart.eval(), batch), batch)["loss"] == pytest.approx(found, abs=1e-5)


def test_a_shared_weight_is_moved_once_whatever_layers_are_named(one_layer, one_weight):
    everywhere, last = (LoRAXS(2, layers=layers, modules="q_proj").bind(load_model(one_layer), 0) for layers in (3, 1))
    assert everywhere.dimension == last.dimension == 4
    assert everywhere.parameters == last.parameters == ("bert.encoder.layer.0.attention.self.query.weight",)
    bound = LoRAXS(2, modules=("q_proj", "v_proj")).bind(load_model(one_weight), 0)
    assert bound.dimension == 2 * 2 * 4  # the first layer's q and v, and those that the others share
    assert bound.parameters == ("transformer.h.0.attn.c_attn.weight", "transformer.h.1.attn.c_attn.weight")


def test_scaled_outputs_take_the_bias_of_every_module_along(one_weight):
    loaded = load_model(one_weight)
    bound = Scales(layers=1, modules="c_attn", scale=1.0).bind(loaded, 0)
    stack = one_weight[0].transformer.h
    with SerialEvaluator(loaded, bound).changed(np.ones((1, bound.dimension))):  # every output is doubled
        after = [layer.attn.c_attn.bias.clone() for layer in stack]
    for factor, layer, found in zip((1, 2, 2), stack, after, strict=True):
        torch.testing.assert_close(found, factor * layer.attn.c_attn.bias)
    assert stack[1].attn.c_attn.bias.any()


def test_an_adapter_of_a_shared_module_has_the_same_loss_in_peft(one_layer, text_task, points, tmp_path):
    peft = pytest.importorskip("peft")
    problem = lp.Problem(one_layer, text_task, LoRAXS(2, scale=0.1))
    x = points(2, problem.dimension)[1]
    problem.save_adapter(x, tmp_path / "adapter")
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(one_layer[0]), tmp_path / "adapter").eval()
    batch = problem.batch("search")
    assert text_task.scores(log_probs(adapted, batch), batch)["loss"] == pytest.approx(problem(x), abs=1e-5)
    with pytest.raises(ValueError, match=r"share tensors that its class does not tie: use save_adapter\(x"):
        problem.save_model(x, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_weight_of_two_modules_has_no_adapter_and_the_refusals_say_what_works(one_weight, text_task, tmp_path):
    problem = lp.Problem(one_weight, text_task, LoRAXS(2, scale=0.1))
    shared = "transformer.h.1.attn.c_attn and transformer.h.2.attn.c_attn share a weight"
    with pytest.raises(ValueError, match=f"{shared}, and an adapter moves one of them: use save_model"):
        problem.save_adapter(problem.x0, tmp_path / "adapter")
    with pytest.raises(ValueError, match="its class does not tie: keep x with the problem's description"):
        problem.save_model(np.ones(problem.dimension), tmp_path / "model")
