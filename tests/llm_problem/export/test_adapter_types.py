"""Each type of adapter, read back from its files by PEFT: the logits are those of the changed model, written out."""

import contextlib
import copy
import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.export import Point, adapter_of
from llm_problem.models.quiet import quiet_transformers
from llm_problem.models.targets import find_targets
from llm_problem.subspaces import (
    LoRA,
    LoRAXS,
    NormsAndBiases,
    Prefix,
    RandomSubspace,
    Scales,
    SoftPrompt,
    Together,
    VeRA,
)
from llm_problem.subspaces.deltas import DenseDelta, ScaleDelta
from llm_problem.tasks.batch import BatchBuilder
from tests.llm_problem.subspace_examples import EXAMPLES, example

peft = pytest.importorskip("peft")

TYPES = {
    "adapter-mix": "LORA",
    "fastfood": None,
    "full": None,
    "lora": "LORA",
    "lora-xs": "LORA",
    "model-mix": None,
    "norms-and-biases": "LORA",  # LN_TUNING where no projection has a bias
    "prefix": "PREFIX_TUNING",
    "random": None,
    "scales": "IA3",
    "singular-values": "LORA",
    "soft-prompt": "PROMPT_TUNING",
    "sparse-projection": None,
    "tiny-lora": "LORA",
    "together": None,
    "vera": "VERA",  # LORA where q and v are fused
}
WEIGHTS = sorted(set(TYPES) - {"prefix", "soft-prompt"})
TOKENS = torch.tensor([[9, 31, 7, 100, 55, 12, 80]])


def reloaded(loaded, folder):
    """PEFT's model from the files, on a base of its own."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        return peft.PeftModel.from_pretrained(copy.deepcopy(loaded.model), folder).eval()


def logits_of(model, **inputs):
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = TOKENS[:, :3]
    with torch.no_grad():
        return model(**inputs).logits


def saved(loaded, task, subspace, folder, seed=1):
    """A random point's adapter, and the problem and point."""
    problem = lp.Problem(loaded, task, subspace, evaluator="serial")
    x = np.random.default_rng(seed).standard_normal(problem.dimension)
    problem.save_adapter(x, folder)
    return problem, x


def peft_type(folder):
    return json.loads((folder / "adapter_config.json").read_text())["peft_type"]


def require_round_trip(loaded, task, subspace, folder, merge=True):
    """The adapter's logits, before and after PEFT merges it, are those of the changed weights in the stock forward."""
    problem, x = saved(loaded, task, subspace, folder)
    before = logits_of(loaded.model, input_ids=TOKENS)
    with problem.evaluator.changed(x[None, :]):
        expected = logits_of(loaded.model, input_ids=TOKENS)
    assert (expected - before).abs().max() > 1e-2
    adapted = reloaded(loaded, folder)
    torch.testing.assert_close(logits_of(adapted, input_ids=TOKENS), expected, rtol=1e-5, atol=2e-5)
    if merge:
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(logits_of(merged, input_ids=TOKENS), expected, rtol=1e-5, atol=2e-5)


def test_every_kind_of_subspace_is_expected_here():
    assert set(EXAMPLES) == set(TYPES) == set(lp.subspaces.SUBSPACES)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert", "t5"])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_come_home_or_the_whole_model_does(kind, family, small_model, label_task, tmp_path):
    loaded = small_model(family)
    subspace = example(kind, loaded)
    if TYPES[kind] is None:
        with pytest.raises(ValueError, match=r"use save_model\(x, directory\), or export --merged"):
            saved(loaded, label_task, subspace, tmp_path / "adapter")
        assert not list(tmp_path.iterdir())
    else:
        require_round_trip(loaded, label_task, subspace, tmp_path / "adapter")
        others = {("norms-and-biases", f): "LN_TUNING" for f in ("llama", "t5")}
        others |= {("vera", f): "LORA" for f in ("gpt2", "gpt_neox")}
        assert peft_type(tmp_path / "adapter") == others.get((kind, family), TYPES[kind])


@pytest.mark.parametrize(
    ("subspace", "expected"),
    [
        (NormsAndBiases(layers=2, biases=False, final_norm=True), "LN_TUNING"),
        (NormsAndBiases(layers=2, norms=False), "LORA"),
        (Together((LoRAXS(2, layers=2), NormsAndBiases(layers=1, biases=False))), "LORA"),
        (Together((LoRA(1, layers=2, modules="down_proj"), NormsAndBiases(layers=2))), "LORA"),
        (Together((LoRAXS(2, layers=2), LoRA(1, layers=1))), "LORA"),
        (Together((Scales(layers=1), Scales(layers=2, modules=("q_proj", "down_proj")))), "IA3"),
    ],
    ids=["norms", "biases", "low rank and norms", "low rank, biases and norms", "one weight twice", "scales twice"],
)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "bert"])
def test_changes_side_by_side_share_an_adapter(family, subspace, expected, small_model, label_task, tmp_path):
    require_round_trip(small_model(family), label_task, subspace, tmp_path / "adapter")
    assert peft_type(tmp_path / "adapter") == expected


def test_a_bias_beside_a_moved_weight_without_one_is_refused(small_model, label_task, tmp_path):
    loaded = small_model("qwen2")  # biases on q, k and v alone
    subspace = Together((LoRAXS(2, layers=1, modules="o_proj"), NormsAndBiases(layers=1, norms=False)))
    with pytest.raises(ValueError, match=r"o_proj, whose weight moves too, has none: use save_model"):
        saved(loaded, label_task, subspace, tmp_path / "adapter")
    require_round_trip(loaded, label_task, NormsAndBiases(layers=2), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("subspace", "expected"),
    [
        (VeRA(3, layers=2, modules=("v_proj", "down_proj")), "VERA"),
        (VeRA(3, layers=2, modules=("q_proj", "v_proj", "down_proj"), searched="b"), "VERA"),
        (VeRA(3, layers=2, modules=("q_proj", "v_proj")), "LORA"),
        (Together((VeRA(3, layers=1, modules="v_proj"), VeRA(3, layers=1, modules="down_proj"))), "LORA"),
        (Together((VeRA(3, layers=1, modules="v_proj"), LoRA(1, layers=2))), "LORA"),
    ],
    ids=["one a module", "two outer vectors in one", "two inner vectors in one", "other matrices", "beside low rank"],
)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_vectors_between_shared_matrices_are_vera_where_a_module_needs_one_of_each(
    family, subspace, expected, small_model, label_task, tmp_path
):
    require_round_trip(small_model(family), label_task, subspace, tmp_path / "adapter")
    assert peft_type(tmp_path / "adapter") == expected


def test_shared_matrices_are_in_the_file_once(small_model, label_task, tmp_path):
    loaded = small_model("t5")  # encoder and decoder, of three shapes
    modules = ("q_proj", "cross_v_proj", "down_proj", "encoder.up_proj")
    problem, x = saved(loaded, label_task, VeRA(3, modules=modules), tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    bound, (unit,) = problem.subspace.inner, problem.spec.units
    np.testing.assert_array_equal(tensors.pop("base_model.vera_A"), bound.A)
    np.testing.assert_array_equal(tensors.pop("base_model.vera_B"), bound.B)
    assert sum(tensor.numel() for tensor in tensors.values()) == sum(3 + target.shape[0] for target in bound.targets)
    first = tensors[f"base_model.model.{bound.targets[0].parameter.removesuffix('.weight')}.vera_lambda_d"]
    np.testing.assert_allclose(first, unit * x[:3] * bound.fixed[0].item(), rtol=1e-6)


def test_scales_of_a_fused_projection_leave_its_other_rows_at_one(small_model, label_task, tmp_path):
    loaded = small_model("gpt2")
    _, x = saved(loaded, label_task, Scales(layers=1, modules=("k_proj",), scale=1.0), tmp_path / "adapter")
    ((name, factors),) = load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()
    assert name == "base_model.model.transformer.h.2.attn.c_attn.ia3_l"
    width = loaded.model.config.hidden_size
    expected = np.ones((3 * width, 1))
    expected[width : 2 * width, 0] += x
    np.testing.assert_allclose(factors.numpy(), expected, rtol=1e-6)


def test_scales_that_ia3_would_not_do_are_refused(small_model):
    loaded = small_model("gpt2")
    parameters = dict(loaded.model.named_parameters())

    def scale(module, side, size):
        (target,) = find_targets(loaded.model, module, 1)
        return ScaleDelta(target, target.read(parameters[target.parameter]), torch.full((1, size), 0.5), side)

    output = scale("c_fc", "output", 128)
    bias = parameters[output.target.bias].detach()
    own = DenseDelta(output.target.bias, 0.5 * bias[None])
    adapter = adapter_of(Point(loaded, (output, own)))
    assert adapter.tensors["base_model.model.transformer.h.2.mlp.c_fc.ia3_l"].shape == (128, 1)
    for deltas, why in [
        ((output,), "bias of .*c_fc moves otherwise"),
        ((output, DenseDelta(output.target.bias, bias[None])), "bias of .*c_fc moves otherwise"),
        ((output, own, scale("c_fc", "input", 32)), "both at its input and at its output"),
        ((scale("q_proj", "input", 32),), "only some rows of .*c_attn"),
        ((scale("c_fc", "input", 32), own), "bias of .*c_fc moves otherwise"),
    ]:
        with pytest.raises(ValueError, match=f"{why}.*: use save_model"):
            adapter_of(Point(loaded, deltas))


# Prompts


@contextlib.contextmanager
def problem_with(loaded, task, subspace, folder):
    problem, x = saved(loaded, task, subspace, folder)
    with torch.no_grad():
        yield problem, x, problem.subspace.deltas(torch.from_numpy(x[None, :]))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("gpt2", {}),
        ("gpt_neox", {}),
        ("opt", {"word_embed_proj_dim": 16}),
        ("bloom", {}),
        ("bert", {}),
        ("roberta", {}),
        ("t5", {}),
    ],
)
def test_a_prompts_embeddings_are_pefts_prompt_tuning(family, changes, small_model, label_task, tmp_path):
    loaded = small_model(family, **changes)
    with problem_with(loaded, label_task, SoftPrompt("Say: ", 5), tmp_path / "adapter") as (problem, x, (delta,)):
        reading = loaded.model.get_encoder() if family == "t5" else loaded.model
        embed = reading.get_input_embeddings()
        prompt = embed(torch.tensor([problem.subspace.prompt])) + delta.value[0]
        expected = logits_of(loaded.model, inputs_embeds=torch.cat([prompt, embed(TOKENS)], dim=1))
    adapted = reloaded(loaded, tmp_path / "adapter")
    assert peft_type(tmp_path / "adapter") == "PROMPT_TUNING"
    found = logits_of(adapted, input_ids=TOKENS, attention_mask=torch.ones_like(TOKENS))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5)
    with pytest.raises(ValueError, match=r"embeddings cannot be merged into weights: use save_adapter\(x, directory\)"):
        problem.save_model(x, tmp_path / "model")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 1, "num_attention_heads": 8}),
        ("qwen3", {"head_dim": 12}),
        ("mistral", {"sliding_window": 4}),
        ("gpt2", {}),
        ("gpt_neox", {"num_key_value_heads": 4}),
        ("opt", {}),
        ("bloom", {}),
    ],
)
def test_a_prompts_cache_is_pefts_prefix_tuning(family, changes, small_model, label_task, tmp_path):
    loaded = small_model(family, **changes)
    subspace = Prefix("Say: ", 5, layers=[0, 2])
    with problem_with(loaded, label_task, subspace, tmp_path / "adapter") as (problem, x, deltas):
        cache = DynamicCache()
        loaded.model(input_ids=torch.tensor([problem.subspace.prompt]), past_key_values=cache, use_cache=True)
        for delta in deltas:
            cache.layers[delta.layer].keys = cache.layers[delta.layer].keys + delta.keys
            cache.layers[delta.layer].values = cache.layers[delta.layer].values + delta.values
        expected = logits_of(loaded.model, input_ids=TOKENS, past_key_values=cache)
    adapted = reloaded(loaded, tmp_path / "adapter")
    assert peft_type(tmp_path / "adapter") == "PREFIX_TUNING"
    for mask in ({}, {"attention_mask": torch.ones_like(TOKENS)}):
        torch.testing.assert_close(logits_of(adapted, input_ids=TOKENS, **mask), expected, rtol=1e-5, atol=2e-5)
    with pytest.raises(ValueError, match=r"keys and values cannot be merged into weights: use save_adapter"):
        problem.save_model(x, tmp_path / "model")


def test_at_zero_a_prompt_adapter_is_the_prompted_model(small_model, label_task, tmp_path):
    loaded = small_model("llama")
    for subspace in (SoftPrompt("Say: ", 5), Prefix("Say: ", 5)):
        problem = lp.Problem(loaded, label_task, subspace)
        problem.save_adapter(problem.x0, tmp_path / subspace.kind)
        found = logits_of(reloaded(loaded, tmp_path / subspace.kind), input_ids=TOKENS)
        whole = torch.cat([torch.tensor([problem.subspace.prompt]), TOKENS], dim=1)
        expected = logits_of(loaded.model, input_ids=whole)[:, -TOKENS.shape[1] :]
        torch.testing.assert_close(found[:, -TOKENS.shape[1] :], expected, rtol=1e-5, atol=2e-5)


def test_prompts_that_peft_would_read_otherwise_are_refused(small_model, label_task, tmp_path):
    marian = small_model("marian")  # scales the embeddings of tokens, not those that it is given
    for loaded, subspace, why in [
        (marian, SoftPrompt("Say: ", 5), "more with tokens than looking their embeddings up"),
        (small_model("gpt_neox"), Prefix("Say: ", 5), "speaks of 2 shared heads"),
    ]:
        with pytest.raises(ValueError, match=rf"{why}.*keep x with .*save_basis"):
            saved(loaded, label_task, subspace, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_weights_and_a_prompt_have_no_one_home(small_model, label_task, tmp_path):
    subspace = Together((LoRAXS(2, layers=1), SoftPrompt("Say: ", 5)))
    problem = lp.Problem(small_model("llama"), label_task, subspace)
    with pytest.raises(ValueError, match=r"another model; keep x with .*save_basis"):
        problem.save_adapter(problem.x0, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"cannot be merged into weights: keep x with .*save_basis"):
        problem.save_model(problem.x0, tmp_path / "model")
    assert not list(tmp_path.iterdir())


class Packed(torch.nn.Parameter):
    """Counts as quantised: a kind of weight of its own that can say its numbers."""

    def dequantize(self):
        return torch.Tensor(self.data)


def test_what_a_quantised_model_cannot_write_does_not_send_in_circles(small_pair, label_task, tmp_path):
    model, tokenizer = small_pair("llama")
    gate = model.model.layers[0].mlp.gate_proj
    gate.weight = Packed(gate.weight.data)
    low_rank, dense = (
        lp.Problem((model, tokenizer), label_task, subspace) for subspace in (LoRAXS(2, layers=1), RandomSubspace(3))
    )
    with pytest.raises(
        ValueError, match=r"quantised model \(Packed\) cannot be merged: use save_adapter\(x, directory\)"
    ):
        low_rank.save_model(low_rank.x0, tmp_path / "model")
    low_rank.save_adapter(low_rank.x0, tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"cannot be merged: keep x with .*save_basis"):
        dense.save_model(dense.x0, tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot be merged either; keep x with .*save_basis"):
        dense.save_adapter(dense.x0, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(
    "subspace",
    [
        LoRA(1, layers=2, modules=("q_proj", "down_proj")),
        Scales(layers=2),
        NormsAndBiases(layers=2),
        SoftPrompt("Review:", 8),
        Prefix("Review:", 8, layers=4),
    ],
    ids=lambda subspace: subspace.kind,
)
def test_smollm2_comes_home(subspace, smollm2, label_task, tmp_path):
    problem, x = saved(smollm2, label_task, subspace, tmp_path / "adapter")
    adapted = reloaded(smollm2, tmp_path / "adapter")
    ids = torch.tensor([problem.tokenizer("a fine day out is good").input_ids])
    front = torch.tensor([problem.subspace.prompt], dtype=torch.long)
    found = logits_of(adapted, input_ids=ids, attention_mask=torch.ones_like(ids))[0, -1].double().log_softmax(-1)
    reference = SerialEvaluator(smollm2, problem.subspace)
    builder, whole = BatchBuilder(), torch.cat([front, ids], dim=1)[0].numpy()
    builder.start_example(0)
    builder.add_sequence(whole)
    for token in range(0, 49152, 4096):
        builder.read(0, len(whole) - 1, token, token)
    batch = builder.build()
    expected = reference.log_probs(x[None, :], batch)[0]
    np.testing.assert_allclose(found[batch.token].numpy(), expected, rtol=0, atol=1e-4)
    assert np.abs(expected - reference.log_probs(0 * x[None, :], batch)[0]).max() > 1e-3
