"""Target weights by name: the right rows of the right tensor, in every family."""

import numpy as np
import pytest
import torch
import transformers

from llm_problem.models import find_targets
from llm_problem.models.families import ENCODER_DECODERS

SMALL = {"vocab_size": 50, "hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2}
T5 = {"vocab_size": 50, "d_model": 12, "d_kv": 4, "num_heads": 3, "num_layers": 2, "d_ff": 20}
STACK = {"layers": 2, "attention_heads": 3, "ffn_dim": 20}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=50, n_embd=12, n_head=3, n_layer=2, n_positions=16),
    "llama": lambda: transformers.LlamaConfig(**SMALL, num_key_value_heads=1, intermediate_size=20),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, num_key_value_heads=1, intermediate_size=20),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**SMALL, intermediate_size=20),
    "opt": lambda: transformers.OPTConfig(
        **SMALL, ffn_dim=20, word_embed_proj_dim=12, max_position_embeddings=16, dropout=0.0
    ),
    "bert": lambda: transformers.BertConfig(**SMALL, intermediate_size=20),
    "roberta": lambda: transformers.RobertaConfig(**SMALL, intermediate_size=20),
    "t5": lambda: transformers.T5Config(**T5),
    "mt5": lambda: transformers.MT5Config(**T5),
    "marian": lambda: transformers.MarianConfig(
        **{"vocab_size": 50, "d_model": 12, "max_position_embeddings": 16, "pad_token_id": 1},
        **{f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in STACK.items()},
    ),
}
MASKED = ("bert", "roberta")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    return {name: auto_of(name).from_config(make()).eval() for name, make in CONFIGS.items()}


def auto_of(name):
    if name in ENCODER_DECODERS:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForMaskedLM if name in MASKED else transformers.AutoModelForCausalLM


def weight_of(model, target):
    return target.read(model.get_parameter(target.parameter))


def first(model, name, layer=0):
    (target,) = find_targets(model, name, [layer])
    return target


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_has_the_common_names(models, family):
    model = models[family]
    for name in ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"):
        target = first(model, name)
        assert tuple(weight_of(model, target).shape) == target.shape
    # Attention of these configurations is square but for grouped keys and values; only MLPs change the width.
    mlp = 48 if family == "gpt2" else 20
    assert first(model, "q_proj").shape == first(model, "o_proj").shape == (12, 12)
    assert first(model, "v_proj").shape == (4 if family in ("llama", "qwen2") else 12, 12)
    assert first(model, "up_proj").shape == (mlp, 12)
    assert first(model, "down_proj").shape == (12, mlp)


def test_gpt2s_fused_projection_is_split_as_its_own_forward_splits_it(models):
    model = models["gpt2"]
    attention = model.transformer.h[1].attn
    h = torch.randn(5, 12)
    expected = dict(zip("qkv", attention.c_attn(h).split(12, dim=-1), strict=True))
    bias = dict(zip("qkv", attention.c_attn.bias.split(12), strict=True))
    for letter in "qkv":
        weight = weight_of(model, first(model, f"{letter}_proj", layer=1))
        torch.testing.assert_close(h @ weight.T + bias[letter], expected[letter])


def test_neoxs_interleaved_projection_is_split_as_its_own_forward_splits_it(models):
    model = models["gpt_neox"]
    fused = model.gpt_neox.layers[0].attention.query_key_value
    h = torch.randn(5, 12)
    with torch.no_grad():
        fused.bias.zero_()
        # Head by head, and in a head q, k, v: as in transformers' GPTNeoXAttention.forward.
        parts = fused(h).view(5, 3, 3 * 4).chunk(3, dim=-1)
    for letter, expected in zip("qkv", parts, strict=True):
        weight = weight_of(model, first(model, f"{letter}_proj"))
        torch.testing.assert_close(h @ weight.T, expected.reshape(5, 12))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("name", ["q_proj", "v_proj", "o_proj", "up_proj"])
def test_adding_changes_what_is_read_and_nothing_else(models, family, name):
    model = models[family]
    target = first(model, name)
    stored = model.get_parameter(target.parameter).detach()
    before = stored.clone()
    delta = torch.randn(target.shape)
    changed = target.add(stored, delta)
    assert torch.equal(stored, before)
    assert changed.shape == stored.shape
    torch.testing.assert_close(target.read(changed), target.read(before) + delta)
    assert int((changed != before).sum()) == delta.numel()


def test_deltas_are_differentiable(models):
    target = first(models["gpt2"], "v_proj")
    delta = torch.zeros(target.shape, requires_grad=True)
    target.add(models["gpt2"].get_parameter(target.parameter), delta).sum().backward()
    assert torch.equal(delta.grad, torch.ones(target.shape))


def test_layers_from_the_end_by_number_and_all(models):
    names = {
        "last": [t.name for t in find_targets(models["llama"], "q_proj", 1)],
        "both": [t.name for t in find_targets(models["llama"], ["v_proj", "q_proj"], None)],
        "first": [t.name for t in find_targets(models["llama"], "q_proj", [-2])],
        "sorted": [t.name for t in find_targets(models["llama"], "q_proj", (1, 0))],
    }
    layer = "model.layers.{}.self_attn.{}_proj".format
    assert names == {
        "last": [layer(1, "q")],
        "both": [layer(0, "v"), layer(0, "q"), layer(1, "v"), layer(1, "q")],
        "first": [layer(0, "q")],
        "sorted": [layer(0, "q"), layer(1, "q")],
    }


@pytest.mark.parametrize("family", CONFIGS)
def test_a_star_is_every_projection_once(models, family):
    model = models[family]
    moved = sum(t.shape[0] * t.shape[1] for t in find_targets(model, "*", 1))
    prefix = find_targets(model, "q_proj", 1)[0].parameter.split(".1.")[0] + ".1."
    matrices = [p for name, p in model.named_parameters() if name.startswith(prefix) and p.ndim == 2]
    assert moved == sum(p.numel() for p in matrices)


def test_own_module_names_and_patterns_work_too(models):
    assert first(models["gpt2"], "c_attn").shape == (36, 12)
    assert first(models["gpt2"], "mlp.c_fc").shape == (48, 12)
    assert [t.shape for t in find_targets(models["bert"], "*_proj", 1)] == [(12, 12)] * 4 + [(20, 12), (12, 20)]
    assert [t.shape for t in find_targets(models["gpt2"], "c_*", 1)] == [(36, 12), (12, 12), (48, 12), (12, 48)]


def test_a_family_that_is_not_listed_works_by_its_own_names():
    config = transformers.GPTBigCodeConfig(vocab_size=50, n_embd=12, n_head=3, n_layer=2, n_positions=16)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert [t.name for t in find_targets(model, "mlp.c_fc", None)] == [f"transformer.h.{k}.mlp.c_fc" for k in (0, 1)]


@pytest.mark.parametrize(
    ("modules", "layers", "message"),
    [
        ("q_prj", 1, r"layer 1 matches 'q_prj' \(did you mean q_proj.*; there are q_proj, k_proj"),
        (("q_proj", "nothing"), None, "no module of layer 0 matches 'nothing'"),
        ("lm_head", 1, r"matches 'lm_head'.*\(of embeddings and head nothing can be chosen here: FullVector and Model"),
        ("q_proj", 3, "layers=3: the last k layers, k from 1 to 2"),
        ("q_proj", 0, "layers=0"),
        ("q_proj", [2], "layer 2 does not exist: the model has 2 layers, 0 to 1"),
        ("q_proj", [-3], "layer -3 does not exist"),
        ("q_proj", [0, -2], "each at most once"),
        ("q_proj", [], "at least one layer"),
        (("q_proj", "c_attn"), 1, "overlap: .*c_attn is chosen twice"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(models, modules, layers, message):
    with pytest.raises(ValueError, match=message):
        find_targets(models["gpt2"], modules, layers)


def test_naming_a_projection_twice_is_naming_it_once(models):
    names = ("q_proj", "q_proj", "self_attn.q_proj", "q_*")
    assert len(find_targets(models["llama"], names, 1)) == 1


def test_rows_of_fused_projections_partition_the_tensor(models):
    for family in ("gpt2", "gpt_neox"):
        rows = [first(models[family], f"{letter}_proj").rows for letter in "qkv"]
        assert np.sort(np.concatenate(rows)).tolist() == list(range(36))


# An encoder and a decoder.


@pytest.fixture(scope="module")
def uneven():
    """T5 with three layers in its encoder and two in its decoder."""
    config = transformers.T5Config(**{**T5, "num_layers": 3, "num_decoder_layers": 2})
    return transformers.T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_cross_attention_has_names_of_its_own(models, family):
    decoder = models[family].get_submodule("decoder" if family != "marian" else "model.decoder")
    layer = (decoder.block if family != "marian" else decoder.layers)[1]
    attention = layer.encoder_attn if family == "marian" else layer.layer[1].EncDecAttention
    weights = dict(zip("qkv", ("q", "k", "v") if family != "marian" else ("q_proj", "k_proj", "v_proj"), strict=True))
    weights["o"] = "out_proj" if family == "marian" else "o"
    for letter, name in weights.items():
        (target,) = find_targets(models[family], f"cross_{letter}_proj", 1)
        assert models[family].get_parameter(target.parameter) is getattr(attention, name).weight


def test_t5s_gated_mlp_has_its_gate_under_the_common_name(models):
    gated = models["mt5"].decoder.block[1].layer[2].DenseReluDense
    names = ("gate_proj", "up_proj", "down_proj")
    found = [models["mt5"].get_parameter(first(models["mt5"], name, layer=1).parameter) for name in names]
    # hidden = act(wi_0 h) * wi_1 h, as in transformers' T5DenseGatedActDense.forward.
    assert all(p is m.weight for p, m in zip(found, (gated.wi_0, gated.wi_1, gated.wo), strict=True))
    with pytest.raises(ValueError, match="no module of layer 0 matches 'gate_proj'"):
        find_targets(models["t5"], "gate_proj", [0])


def test_layers_are_the_decoders_and_the_encoders_by_prefix(uneven):
    path = "{}.block.{}.layer.0.SelfAttention.q".format
    assert [t.name for t in find_targets(uneven, "q_proj", None)] == [path("decoder", k) for k in (0, 1)]
    assert [t.name for t in find_targets(uneven, "encoder.q_proj", 1)] == [path("encoder", 2)]
    both = [path("encoder", 1), path("encoder", 2), path("decoder", 0), path("decoder", 1)]
    assert [t.name for t in find_targets(uneven, ("q_proj", "encoder.q_proj"), 2)] == both
    encoder = [p for name, p in uneven.named_parameters() if name.startswith("encoder.block.2.") and p.ndim == 2]
    assert {uneven.get_parameter(t.parameter) for t in find_targets(uneven, "encoder.*", 1)} == set(encoder)
    with pytest.raises(ValueError, match="no module of encoder layer 2 matches 'cross_q_proj'"):
        find_targets(uneven, "encoder.cross_q_proj", 1)
    with pytest.raises(ValueError, match="the last k layers, k from 1 to 2"):
        find_targets(uneven, "q_proj", 3)


def test_an_encoder_decoder_that_is_not_listed_counts_its_decoders_layers():
    config = transformers.BartConfig(
        **{"vocab_size": 50, "d_model": 12, "max_position_embeddings": 16},
        **{f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in {**STACK, "layers": 2}.items()},
    )
    model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    assert [t.name for t in find_targets(model, "self_attn.q_proj", 1)] == ["model.decoder.layers.1.self_attn.q_proj"]
    assert [t.name for t in find_targets(model, "encoder.fc1", 1)] == ["model.encoder.layers.1.fc1"]
