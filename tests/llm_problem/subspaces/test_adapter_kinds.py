"""Mixes of adapters that are no plain LoRA: what PEFT makes of each, added up, beside each other, and the way home."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models.quiet import quiet_transformers
from llm_problem.subspaces import AdapterMix, LoRAXS

peft = pytest.importorskip("peft")
LINEAR = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "mlp.c_proj"], "bert": ["key", "output.dense"]}
INPUTS = {"llama": ["down_proj"], "gpt2": ["mlp.c_proj"], "bert": ["output.dense"]}
NORMS = {"llama": ["input_layernorm"], "gpt2": ["ln_1"], "bert": ["LayerNorm"]}
WITH_BIAS = {"gpt2": ["c_attn"], "bert": ["query"]}


def configuration(kind, family):
    if kind == "VERA":
        return peft.VeraConfig(r=4, target_modules=LINEAR[family], d_initial=0.1)
    if kind == "IA3":
        return peft.IA3Config(target_modules=LINEAR[family], feedforward_modules=INPUTS[family])
    if kind == "LN_TUNING":
        return peft.LNTuningConfig(target_modules=NORMS[family])
    if kind == "LORA with biases":
        return peft.LoraConfig(r=2, lora_alpha=6, target_modules=WITH_BIAS[family], lora_bias=True)
    return peft.LoraConfig(r=2, target_modules=LINEAR[family], modules_to_save=NORMS[family])


KINDS = ["VERA", "IA3", "LN_TUNING", "LORA with norms"]
CASES = [(kind, family) for kind in KINDS for family in LINEAR] + [("LORA with biases", f) for f in WITH_BIAS]


@pytest.fixture(scope="module")
def adapter(small_pair, tmp_path_factory):
    """A function: kind, family, seed → (directory, weights of the model that PEFT has merged it into)."""

    def make(kind, family, seed=0):
        folder = tmp_path_factory.mktemp("adapter")
        generator = torch.Generator().manual_seed(seed)
        with quiet_transformers(), torch.no_grad():
            adapted = peft.get_peft_model(small_pair(family)[0], configuration(kind, family))
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            adapted.save_pretrained(folder)
            return folder, dict(adapted.merge_and_unload().named_parameters())

    return make


def weights_at(bound, loaded, x):
    """The parameters of the model at x (d,)."""
    with SerialEvaluator(loaded, bound).changed(np.asarray(x, dtype=float)[None]):
        return {name: p.detach().clone() for name, p in loaded.model.named_parameters()}


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_a_coordinate_is_the_adapter_as_peft_merges_it_and_they_add_up(kind, family, adapter, small_model):
    loaded, made = small_model(family), [adapter(kind, family, seed) for seed in (1, 2)]
    bound = AdapterMix([folder for folder, _ in made]).bind(loaded, 0)
    pretrained = {name: p.detach() for name, p in loaded.model.named_parameters()}
    changes = [{name: merged[name].detach() - p for name, p in pretrained.items()} for _, merged in made]
    for x in ([1.0, 0.0], [0.5, -2.0]):
        for name, found in weights_at(bound, loaded, x).items():
            expected = pretrained[name] + sum(c * change[name] for c, change in zip(x, changes, strict=True))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-6)
    assert set(bound.parameters) == {name for name in pretrained if any(c[name].any() for c in changes)}


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_kinds_are_mixed_with_each_other_by_both_evaluators(family, adapter, small_model, text_task, points):
    folders = [adapter(kind, family)[0] for kind in [*KINDS, "LORA with biases"]]
    subspace, loaded = AdapterMix(folders, scale=0.3), small_model(family)
    values = [lp.Problem(loaded, text_task, subspace, evaluator=e) for e in ("serial", "replay")]
    assert values[1].evaluator.planned == (family == "gpt2")  # BERT's adapter of norms moves that of the embeddings too
    X = points(4, len(folders))
    np.testing.assert_allclose(values[1].evaluate(X), values[0].evaluate(X), atol=2e-5)


@pytest.mark.parametrize(
    ("kinds", "peft_type"),
    [
        (("IA3", "IA3"), "IA3"),
        (("LN_TUNING", "LN_TUNING"), "LN_TUNING"),
        (("VERA", "LORA with biases", "LN_TUNING"), "LORA"),
        (("VERA", "IA3"), None),
    ],
)
def test_a_mix_goes_home_as_what_holds_it(kinds, peft_type, adapter, small_pair, text_task, tmp_path):
    pair = small_pair("gpt2")
    folders = [adapter(kind, "gpt2", seed)[0] for seed, kind in enumerate(kinds)]
    problem = lp.Problem(pair, text_task, AdapterMix(folders), evaluator="serial")
    x = np.linspace(0.6, -0.4, len(kinds))
    if peft_type is None:
        with pytest.raises(ValueError, match=r"no PEFT adapter holds .*: use save_model"):
            problem.save_adapter(x, tmp_path / "mix")
        problem.save_model(x, tmp_path / "mix")
        again = lp.Problem(tmp_path / "mix", text_task, LoRAXS(1, scale=1), evaluator="serial")
    else:
        problem.save_adapter(x, tmp_path / "mix")
        assert json.loads((tmp_path / "mix" / "adapter_config.json").read_text())["peft_type"] == peft_type
        with quiet_transformers():
            merged = peft.PeftModel.from_pretrained(copy.deepcopy(pair[0]), tmp_path / "mix").merge_and_unload()
        again = lp.Problem((merged, pair[1]), text_task, LoRAXS(1, scale=1), evaluator="serial")
    assert again(again.x0) == pytest.approx(problem(x), abs=1e-5)
    assert problem(x) != pytest.approx(problem(problem.x0), abs=1e-3)


def test_what_is_no_plain_adapter_of_its_kind_is_named(adapter, small_model):
    folder, _ = adapter("VERA", "gpt2")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: t for k, t in tensors.items() if "vera_A" not in k}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"has no vera_A and vera_B, .* save it with save_projection=True"):
        AdapterMix(folder)
    save_file({k: t[:3] if "lambda_d" in k else t for k, t in tensors.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"c_attn are of 96 and 3 numbers, which do not fit"):
        AdapterMix(folder)
    folder, _ = adapter("IA3", "gpt2")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"more than an IA3 of weight matrices: it also holds .*lm_head"):
        AdapterMix(folder)


@pytest.mark.parametrize("kind", ["VERA", "IA3", "LN_TUNING"])
def test_another_model_is_refused_with_what_differs(kind, adapter, small_model):
    subspace = AdapterMix(adapter(kind, "gpt2")[0])
    with pytest.raises(ValueError, match="is of another architecture: it changes transformer"):
        subspace.bind(small_model("llama"), 0)
    with pytest.raises(ValueError, match="is of another model: its "):
        subspace.bind(small_model("gpt2", n_embd=16), 0)
