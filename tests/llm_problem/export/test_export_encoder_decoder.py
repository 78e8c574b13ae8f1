"""What is saved of an encoder-decoder model loads elsewhere with the loss it had here."""

import copy
import json

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.models import load_model

FAMILIES = ["t5", "mt5", "marian", "t5 1.1"]
MODULES = ("q_proj", "cross_v_proj", "down_proj", "encoder.k_proj")
SUBSPACES = [
    lp.subspaces.LoRAXS(2, layers=2, modules=MODULES),
    lp.subspaces.RandomSubspace(5),
    lp.subspaces.FullVector(),
]


@pytest.fixture
def pair(small_pair):
    """A function: family → (model, tokenizer); T5 1.1 is gated and does not scale what its head reads."""
    gated = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return lambda family: small_pair("t5", **gated) if family == "t5 1.1" else small_pair(family)


def loss_of(model, task):
    other = lp.Problem(model, task, lp.subspaces.LoRAXS(1, layers=1), evaluator="serial")
    return other(other.x0)


@pytest.mark.parametrize("subspace", SUBSPACES, ids=lambda subspace: subspace.kind)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_in_plain_transformers_with_the_same_loss(family, subspace, pair, label_task, tmp_path):
    problem = lp.Problem(pair(family), label_task, subspace, evaluator="serial")
    x = np.random.default_rng(2).standard_normal(problem.dimension)
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    problem.save_model(x, tmp_path / "model")
    assert problem(x) != pytest.approx(problem(problem.x0), abs=1e-3)
    reloaded = load_model(tmp_path / "model")
    assert reloaded.kind == "seq2seq"
    assert loss_of((reloaded.model, reloaded.tokenizer), label_task) == pytest.approx(problem(x), abs=1e-6)
    assert all(tensor.equal(before[name]) for name, tensor in problem.model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_loads_in_peft_with_the_same_loss(family, pair, label_task, tmp_path):
    peft = pytest.importorskip("peft")
    model, tokenizer = pair(family)
    problem = lp.Problem((model, tokenizer), label_task, SUBSPACES[0])
    x = np.random.default_rng(1).standard_normal(problem.dimension)
    problem.save_adapter(x, tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_2_SEQ_LM"
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
    assert isinstance(adapted, peft.PeftModelForSeq2SeqLM)
    merged = adapted.merge_and_unload()
    assert loss_of((merged, tokenizer), label_task) == pytest.approx(problem(x), abs=1e-5)
    assert problem(x) != pytest.approx(problem(problem.x0), abs=1e-3)


def test_computed_positions_are_not_searched(small_model):
    loaded = small_model("marian")
    bound = lp.subspaces.FullVector().bind(loaded, 0)
    left = {name for name, _ in loaded.model.named_parameters()} - set(bound.parameters)
    assert left == {f"model.{part}.embed_positions.weight" for part in ("encoder", "decoder")}
