"""Task vectors: a coordinate is the whole way to a model; other architectures are refused by name."""

import copy
import shutil

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models import load_model
from llm_problem.subspaces import ModelMix
from llm_problem.subspaces import model_mix as module
from tests.llm_problem.subspace_examples import mixed_models


@pytest.fixture(scope="module")
def loaded(small_model):
    return small_model("llama")


@pytest.fixture(scope="module")
def mix(loaded):
    return mixed_models(loaded)


def saved(pair, folder):
    for part in pair:
        part.save_pretrained(folder)
    return folder


def test_a_unit_is_the_other_model(loaded, mix):
    bound = mix.bind(loaded, 0)
    for i, unit in enumerate(np.eye(2)):
        other = dict(load_model(mix.models[i].source).model.named_parameters())
        with SerialEvaluator(loaded, bound).changed(unit[None]):
            for name, parameter in loaded.model.named_parameters():
                torch.testing.assert_close(parameter, other[name], rtol=0, atol=1e-7)


def test_only_tensors_that_differ_are_held(loaded, mix):
    bound = mix.bind(loaded, 0)
    kinds = {name.rsplit(".", 2)[1] for name in bound.parameters}
    assert kinds == {"q_proj", "o_proj", "down_proj"}
    shapes = {name.rsplit(".", 2)[1]: len(v) for name, v in zip(bound.parameters, bound.basis(), strict=True)}
    assert shapes == {"q_proj": 1, "o_proj": 1, "down_proj": 2}


def test_the_fingerprint_follows_the_weights_and_not_the_folder(mix, text_task, tmp_path):
    def fingerprint(subspace):
        return lp.ProblemSpec("m", text_task, subspace).fingerprint("m")

    moved = shutil.copytree(mix.models[0].source, tmp_path / "moved")
    assert fingerprint(ModelMix([moved, mix.models[1]])) == fingerprint(mix)
    assert fingerprint(ModelMix([mix.models[1], moved])) != fingerprint(mix)


def test_a_model_that_has_changed_is_refused(loaded, small_pair, tmp_path):
    model, tokenizer = small_pair("llama")
    model.model.norm.weight.data += 0.5
    folder = saved((model, tokenizer), tmp_path / "model")
    subspace = ModelMix([folder])
    model.model.norm.weight.data += 0.5
    shutil.rmtree(folder)
    saved((model, tokenizer), folder)
    with pytest.raises(ValueError, match=r"model has changed: sha256 [0-9a-f]{64}, expected"):
        subspace.bind(loaded, 0)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {}, "of another architecture: gpt2, not llama"),
        ("llama", {"num_hidden_layers": 2}, r"it lacks model\.layers\.2"),
        ("llama", {"attention_bias": True}, r"it also has model\.layers\.0\.self_attn\.k_proj\.bias"),
        ("llama", {"intermediate_size": 64}, r"mlp\.gate_proj\.weight is \(64, 32\), not \(48, 32\)"),
    ],
)
def test_another_architecture_is_refused_with_what_differs(family, changes, message, loaded, small_pair, tmp_path):
    subspace = ModelMix(saved(small_pair(family, **changes), tmp_path / "other"))
    with pytest.raises(ValueError, match=message):
        subspace.bind(loaded, 0)


def test_the_pretrained_model_itself_none_and_twins_are_refused(loaded, mix, small_pair, tmp_path):
    with pytest.raises(ValueError, match="is the pretrained model itself"):
        ModelMix([saved(small_pair("llama"), tmp_path / "same")]).bind(loaded, 0)
    with pytest.raises(ValueError, match="given twice"):
        ModelMix([mix.models[0], mix.models[0].source])
    with pytest.raises(ValueError, match="got none"):
        ModelMix([])
    with pytest.raises(TypeError, match="must be a name, a directory or a hub id, got tuple"):
        ModelMix([small_pair("llama")])


def test_memory_is_asked_for_first(loaded, mix, monkeypatch):
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: type("Free", (), {"available": 1000})())
    with pytest.raises(ValueError, match="GiB are free: mix fewer models"):
        mix.bind(loaded, 0)


def test_halfway_is_halfway(loaded, mix, text_task):
    problem = lp.Problem(loaded, text_task, mix)
    middle = copy.deepcopy(loaded.model)
    other = load_model(mix.models[0].source).model
    with torch.no_grad():
        for name, parameter in middle.named_parameters():
            parameter.lerp_(other.get_parameter(name), 0.5)
    again = lp.Problem((middle, loaded.tokenizer), text_task, lp.subspaces.LoRAXS(1), evaluator="serial")
    assert problem([0.5, 0.0]) == pytest.approx(again(again.x0), abs=1e-5)
    assert problem([0.5, 0.0]) != pytest.approx(problem([0.0, 0.0]), abs=1e-4)
