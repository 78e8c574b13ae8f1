"""Task vectors: a coordinate is the whole way to a model; other architectures are refused by name."""

import copy
import gc
import json
import shutil

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models import forget_models, load_model, loading
from llm_problem.subspaces import LoRAXS, ModelMix, Together
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


def test_describing_a_mix_loads_nothing(monkeypatch, tmp_path, text_task):
    monkeypatch.setattr(loading, "_load", lambda *args: pytest.fail("a description loaded a model"))
    monkeypatch.setattr(loading, "smollm2_folder", lambda: pytest.fail("a description fetched a model"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    mix = ModelMix(["smollm2-135m", "someone/model", "mine", tmp_path / "not-there-yet"])
    assert [model.source for model in mix.models] == [
        "smollm2-135m",
        "someone/model",
        str((tmp_path / "mine").resolve()),
        str(tmp_path / "not-there-yet"),
    ]
    spec = lp.ProblemSpec("m", text_task, mix)
    assert lp.ProblemSpec.from_json(spec.to_json()) == spec
    with pytest.raises(ValueError, match="what is in smollm2-135m is known once the subspace is bound"):
        spec.fingerprint("m")


@pytest.mark.parametrize("wrap", [lambda mix: mix, lambda mix: Together((LoRAXS(2, layers=1), mix), scale=0.5)])
def test_a_problem_records_what_was_in_the_models(wrap, mix, text_task, loaded):
    problem = lp.Problem(loaded, text_task, wrap(mix))
    recorded = problem.spec.to_dict()["subspace"]
    models = (recorded if wrap(mix) is mix else recorded["parts"][1])["models"]
    assert [model["sha256"] for model in models] == [load_model(m.source).identity for m in mix.models]
    assert problem.card()["subspace_settings"] == recorded
    again = lp.ProblemSpec.from_json(problem.spec.to_json())
    assert again == problem.spec
    assert again.fingerprint(loaded.identity) == problem.fingerprint
    assert again.subspace.scale == wrap(mix).scale


def test_the_fingerprint_follows_the_weights_and_not_the_folder(mix, text_task, tmp_path, loaded):
    def fingerprint(*models):
        return lp.Problem(loaded, text_task, ModelMix(models), evaluator="serial").fingerprint

    first, second = mix.models
    moved = shutil.copytree(first.source, tmp_path / "moved")
    assert fingerprint(moved, second) == fingerprint(first, second)
    assert fingerprint(second, moved) != fingerprint(first, second)
    assert fingerprint(first) != fingerprint(second)


def test_a_model_that_has_changed_is_refused(loaded, small_pair, text_task, tmp_path):
    model, tokenizer = small_pair("llama")
    model.model.norm.weight.data += 0.5
    folder = saved((model, tokenizer), tmp_path / "model")
    recorded = lp.Problem(loaded, text_task, ModelMix([folder])).spec.subspace
    recorded.bind(loaded, 0)
    model.model.norm.weight.data += 0.5
    shutil.rmtree(folder)
    saved((model, tokenizer), folder)
    with pytest.raises(ValueError, match=r"model has changed: sha256 [0-9a-f]{64}, expected"):
        recorded.bind(loaded, 0)
    ModelMix([folder]).bind(loaded, 0)  # who has recorded nothing takes what there is


def test_a_hash_can_be_asked_for(loaded, mix):
    source = mix.models[0].source
    right = load_model(source).identity
    ModelMix({"source": source, "sha256": right}).bind(loaded, 0)
    with pytest.raises(ValueError, match=f"has changed: sha256 {right}, expected 0000"):
        ModelMix([{"source": source, "sha256": 64 * "0"}]).bind(loaded, 0)
    with pytest.raises(ValueError, match="must be 64 hex digits, or None, got 'abc'"):
        ModelMix([{"source": source, "sha256": "abc"}])


def test_a_mixed_model_is_let_go_of(loaded, mix):
    forget_models()
    bound = mix.bind(loaded, 0)
    gc.collect()
    assert bound.dimension == 2
    assert not any(other.name == model.source for model in mix.models for other in loading._loaded.values())


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


def test_a_model_of_another_vocabulary_is_refused(loaded, small_pair, byte_tokenizer, tmp_path):
    """Of the same size: its weights would fit."""
    model, _ = small_pair("llama")
    model.lm_head.weight.data += 0.01
    saved((model, byte_tokenizer), tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    contents = json.loads(path.read_text())
    vocabulary = contents["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(contents))
    with pytest.raises(ValueError, match=r"other reads other tokens: \d+ is 'b' there and 'a' in the pretrained"):
        ModelMix([tmp_path / "other"]).bind(loaded, 0)
    byte_tokens = copy.deepcopy(byte_tokenizer)
    byte_tokens.add_tokens(["<more>"])  # nothing that the pretrained model knows by another number
    assert ModelMix([saved((model, byte_tokens), tmp_path / "more")]).bind(loaded, 0).dimension == 1


def test_the_pretrained_model_itself_none_and_twins_are_refused(loaded, mix, small_pair, tmp_path):
    with pytest.raises(ValueError, match="is the pretrained model itself"):
        ModelMix([saved(small_pair("llama"), tmp_path / "same")]).bind(loaded, 0)
    with pytest.raises(ValueError, match="given twice"):
        ModelMix([mix.models[0], mix.models[0].source])
    copied = shutil.copytree(mix.models[0].source, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"given twice: of .*copy some are the same"):
        ModelMix([*mix.models, copied]).bind(loaded, 0)
    with pytest.raises(ValueError, match="got none"):
        ModelMix([])
    with pytest.raises(TypeError, match="must be a name, a directory or a hub id, got tuple"):
        ModelMix([small_pair("llama")])
    with pytest.raises(ValueError, match=r"unknown model 'tiny-gtp2': .* did you mean tiny-gpt2"):
        ModelMix("tiny-gtp2").bind(loaded, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_refused(value, loaded, small_pair, tmp_path):
    """0 times its difference would not be the pretrained model."""
    model, tokenizer = small_pair("llama")
    model.model.norm.weight.data[3] = value
    with pytest.raises(ValueError, match=r"cannot be mixed: model\.norm\.weight less the pretrained one is not finite"):
        ModelMix(saved((model, tokenizer), tmp_path / "wild")).bind(loaded, 0)


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
