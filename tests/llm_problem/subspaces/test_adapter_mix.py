"""Mixes of LoRA adapters: what PEFT makes of each, added up; and what is refused by name. Other kinds have a file."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models.quiet import quiet_transformers
from llm_problem.subspaces import AdapterMix
from tests.llm_problem.subspace_examples import draw_factors, modules_of, write_adapter

SETTINGS = {
    "plain": {"r": 3, "lora_alpha": 6},
    "rank-stabilised": {"r": 4, "lora_alpha": 5, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 7,
        "rank_pattern": {"q_proj": 5, "attn.c_attn": 5, "attention.self.query": 5},
        "alpha_pattern": {r".*\.1\..*": 3},
    },
}
TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "bert": ["query", "value", "output.dense"],
}


@pytest.fixture(scope="module")
def adapters(small_pair, tmp_path_factory):
    """A function: family → [(directory, weights of the model that PEFT has merged it into)], one a setting."""
    peft = pytest.importorskip("peft")

    def make(family):
        found = []
        for name, settings in SETTINGS.items():
            folder = tmp_path_factory.mktemp(f"{family}-{name}")
            torch.manual_seed(len(found))
            model, _ = small_pair(family)
            with quiet_transformers():
                config = peft.LoraConfig(target_modules=TARGETS[family], init_lora_weights=False, **settings)
                adapted = peft.get_peft_model(model, config)
                adapted.save_pretrained(folder)
            found.append((folder, dict(adapted.merge_and_unload().named_parameters())))
        return found

    return make


def weights_at(bound, loaded, x):
    """The parameters of the model at x (d,)."""
    with SerialEvaluator(loaded, bound).changed(np.asarray(x, dtype=float)[None]):
        return {name: p.detach().clone() for name, p in loaded.model.named_parameters()}


@pytest.mark.parametrize("family", TARGETS)
def test_a_coordinate_is_the_adapter_as_peft_merges_it_and_they_add_up(family, adapters, small_model):
    loaded, made = small_model(family), adapters(family)
    bound = AdapterMix([folder for folder, _ in made]).bind(loaded, 0)
    pretrained = {name: p.detach() for name, p in loaded.model.named_parameters()}
    changes = [{name: merged[name] - p for name, p in pretrained.items()} for _, merged in made]
    for x in (*np.eye(len(made)), [0.5, -2.0, 1.5]):
        for name, found in weights_at(bound, loaded, x).items():
            expected = pretrained[name] + sum(float(c) * change[name] for c, change in zip(x, changes, strict=True))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)
    assert set(bound.parameters) == {name for name in pretrained if any(c[name].any() for c in changes)}


@pytest.mark.parametrize("family", TARGETS)
def test_the_fast_evaluator_agrees(family, adapters, small_model, text_task, points):
    loaded = small_model(family)
    subspace = AdapterMix([folder for folder, _ in adapters(family)], scale=0.1)
    values = [lp.Problem(loaded, text_task, subspace, evaluator=e) for e in ("serial", "replay")]
    assert values[1].evaluator.planned
    X = points(5, 3)
    np.testing.assert_allclose(values[1].evaluate(X), values[0].evaluate(X), atol=2e-5)


def test_a_fused_weight_is_one_target(adapters, small_model):
    bound = AdapterMix([folder for folder, _ in adapters("gpt2")]).bind(small_model("gpt2"), 0)
    fused = [d for d in bound.deltas(torch.ones(1, 3)) if d.parameter.endswith("c_attn.weight")]
    assert [d.target.shape for d in fused] == [(96, 32)] * 3
    assert all(d.core.shape == (1, 3 + 4 + 5) and d.target.transposed for d in fused)


@pytest.fixture
def adapter(small_model, tmp_path):
    """A function: settings → a small adapter for the llama model."""

    def make(name="adapter", seed=0, **settings):
        loaded = small_model("llama")
        factors = draw_factors(loaded.model, modules_of(loaded, ("q_proj",)), 2, np.random.default_rng(seed))
        return write_adapter(tmp_path / name, factors, **settings)

    return make


def change_keys(folder, rename):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({rename(key): tensor for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: key.replace("base_model.model.model.", "base_model.model."),
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
    ],
    ids=["adapter name", "no wrapper", "body alone", "compiled"],
)
def test_other_prefixes_are_the_same_adapter(rename, adapter, small_model):
    loaded = small_model("llama")
    expected = weights_at(AdapterMix([adapter()]).bind(loaded, 0), loaded, [1.0])
    other = adapter("other")
    change_keys(other, rename)
    found = weights_at(AdapterMix(other).bind(loaded, 0), loaded, [1.0])
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_fingerprint_follows_what_is_in_the_adapters_and_not_the_folder(adapter, text_task, tmp_path):
    def fingerprint(folder):
        return lp.ProblemSpec("m", text_task, AdapterMix([folder])).fingerprint("m")

    folder = adapter(base_model_name_or_path="here")
    shutil.copytree(folder, tmp_path / "moved")
    (tmp_path / "moved" / "README.md").write_text("a card")
    config = json.loads((folder / "adapter_config.json").read_text())
    (tmp_path / "moved" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "elsewhere"})
    )
    assert fingerprint(tmp_path / "moved") == fingerprint(folder)
    assert fingerprint(adapter("other", seed=1)) != fingerprint(folder)
    assert fingerprint(adapter("stronger", alpha=5)) != fingerprint(folder)


def test_an_adapter_that_has_changed_is_refused(adapter, small_model):
    folder = adapter()
    subspace = AdapterMix([folder])
    shutil.rmtree(folder)
    adapter(seed=1)
    with pytest.raises(ValueError, match=r"adapter has changed: sha256 [0-9a-f]{64}, expected"):
        subspace.bind(small_model("llama"), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "LOHA"}, r"of type LORA, VERA, IA3 and LN_TUNING can be mixed; others once .* of type LOHA"),
        (
            {"peft_type": "PREFIX_TUNING"},
            "and LN_TUNING can be mixed; prompts are not mixed, but searched .*: .* is one of type PREFIX_TUNING",
        ),
        ({"peft_type": None}, "LN_TUNING can be mixed: .* is one of type None"),
        ({"use_dora": True}, "more than a plain LoRA: .* has use_dora=True"),
        ({"bias": "lora_only"}, "has bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save=\['lm_head'\] and no tensors of lm_head"),
        ({"layer_replication": [[0, 2]]}, "has layer_replication="),
        ({"a_setting_to_come": 3}, "has a_setting_to_come=3"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4', which changes the pretrained"),
        ({"lora_alpha": "two"}, r"a rank or an alpha of .*q_proj that cannot be read: could not convert"),
        ({"alpha_pattern": {"q_(": 3}}, r"that cannot be read: missing \)"),
        ({"rank_pattern": [2]}, "that cannot be read: 'list' object has no attribute 'items'"),
        ({"alpha": float("inf")}, r"has numbers that are not finite, in model\.layers"),
        ({"r": 3}, r"gives .*q_proj rank 3, but lora_B has shape \(32, 2\) and lora_A \(2, 32\)"),
    ],
)
def test_what_is_no_plain_lora_is_named(settings, message, adapter):
    with pytest.raises(ValueError, match=message):
        AdapterMix([adapter(**settings)])


def test_dora_of_peft_itself_is_refused(small_pair, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    peft.get_peft_model(small_pair("llama")[0], config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_dora=True"):
        AdapterMix([tmp_path])


def test_tensors_beside_lora_are_named(adapter):
    folder = adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.ones(2, 2)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"also holds base_model\.model\.lm_head\.weight"):
        AdapterMix([folder])
    missing = next(iter(tensors))
    save_file({k: t for k, t in tensors.items() if k != missing}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"only one of lora_A and lora_B for .*q_proj"):
        AdapterMix([folder])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_an_adapter_that_is_not_finite_is_refused(side, value, adapter):
    """0 times its change would not be the pretrained model."""
    folder = adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    next(tensor for key, tensor in tensors.items() if side in key)[0, 0] = value
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"has numbers that are not finite, in model\.layers\..*q_proj"):
        AdapterMix([folder])


def test_pickled_weights_are_not_read(adapter):
    folder = adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"only adapter_model\.bin, which is not read: such files can run code"):
        AdapterMix([folder])


def test_folders_that_are_none(adapter, tmp_path):
    with pytest.raises(ValueError, match="is no directory with an adapter"):
        AdapterMix([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no adapter_config\.json and no adapter_model\.safetensors"):
        AdapterMix([tmp_path / "empty"])
    folder = adapter("outer/named")
    with pytest.raises(ValueError, match=r"outer is no adapter: .*; there is one in .*outer/named"):
        AdapterMix([folder.parent])
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        AdapterMix([folder])
    with pytest.raises(ValueError, match="got none"):
        AdapterMix([])
    with pytest.raises(TypeError, match="an adapter must be a directory, got int"):
        AdapterMix([3])


def test_an_adapter_given_twice_or_without_effect_is_refused(adapter, small_model):
    folder = adapter()
    with pytest.raises(ValueError, match="given twice"):
        AdapterMix([folder, folder])
    loaded = small_model("llama")
    zero = {"model.layers.0.self_attn.q_proj": (torch.zeros(32, 2), torch.ones(2, 32))}
    with pytest.raises(ValueError, match="changes nothing"):
        AdapterMix([folder, write_adapter(folder.parent / "zero", zero)]).bind(loaded, 0)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {}, "of another architecture: it changes model.layers.1.self_attn.q_proj, which this GPT2LMHeadModel"),
        (
            "llama",
            {"hidden_size": 64, "head_dim": 8},
            r"has shape \(32, 32\), this LlamaForCausalLM's weight has \(32, 64\)",
        ),
        ("llama", {"num_hidden_layers": 2}, "changes model.layers.2.self_attn.q_proj, which this"),
    ],
)
def test_another_model_is_refused_with_what_differs(family, changes, message, adapter, small_model):
    subspace = AdapterMix([adapter()])
    with pytest.raises(ValueError, match=message):
        subspace.bind(small_model(family, **changes), 0)


def test_embeddings_and_tied_heads_are_refused(small_model, tmp_path):
    loaded = small_model("llama", tie_word_embeddings=True)
    vocabulary = loaded.model.config.vocab_size
    for module, message in (("model.embed_tokens", "a Embedding: only linear"), ("lm_head", "is one with model.embed")):
        folder = write_adapter(tmp_path / module, {module: (torch.ones(vocabulary, 2), torch.ones(2, 32))})
        with pytest.raises(ValueError, match=message):
            AdapterMix([folder]).bind(loaded, 0)


def test_a_mix_goes_home_as_an_adapter(adapters, small_pair, text_task, tmp_path):
    peft = pytest.importorskip("peft")
    pair = small_pair("gpt2")
    problem = lp.Problem(pair, text_task, AdapterMix([folder for folder, _ in adapters("gpt2")]))
    x = np.array([0.5, -0.4, 0.2])
    problem.save_adapter(x, tmp_path / "mix")
    with quiet_transformers():
        merged = peft.PeftModel.from_pretrained(copy.deepcopy(pair[0]), tmp_path / "mix").merge_and_unload()
    again = lp.Problem((merged, pair[1]), text_task, lp.subspaces.LoRAXS(1), evaluator="serial")
    assert again(again.x0) == pytest.approx(problem(x), abs=1e-5)
    assert problem(x) != pytest.approx(problem(problem.x0), abs=1e-3)
    # and a mix can be mixed
    mixed = lp.Problem(pair, text_task, AdapterMix([tmp_path / "mix"]))
    assert mixed([1.0]) == pytest.approx(problem(x), abs=1e-5)
