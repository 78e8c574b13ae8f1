"""Soft prompts and prefixes: the maps written out with numpy, and texts and models that do not fit."""

import json

import numpy as np
import psutil
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import llm_problem as lp
from llm_problem.models import load_model
from llm_problem.subspaces import LoRAXS, Prefix, SoftPrompt, Together
from llm_problem.subspaces.stored import load_basis, save_basis

TEXT = "Say it: "


def directions(seed, stream, dimension, size):
    """Gaussian directions of length one, (d, size), in double precision."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))
    drawn = rng.standard_normal((dimension, size), dtype=np.float32).astype(float)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("family", ["llama", "bert", "t5", "opt"])
def test_a_soft_prompt_is_a_random_projection_onto_the_embeddings(family, scale, small_model):
    loaded = small_model(family, **({"word_embed_proj_dim": 16} if family == "opt" else {}))
    bound = SoftPrompt(TEXT, 6, scale=scale).bind(loaded, 5)
    ids = loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert bound.prompt == tuple(ids)
    embeddings = loaded.model.get_input_embeddings().weight[ids].detach().double().numpy()
    length = np.linalg.norm(embeddings) / np.sqrt(6) if scale is None else scale
    x = np.random.default_rng(0).standard_normal((2, 6))
    expected = (x @ directions(5, 0x50F7, 6, embeddings.size) * length).reshape(2, *embeddings.shape)
    (delta,) = bound.deltas(torch.from_numpy(x))
    np.testing.assert_allclose(delta.value.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [None, 3.0])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3"])
@torch.no_grad()
def test_a_prefix_is_a_random_projection_onto_keys_and_values_in_units_of_their_rms(family, scale, small_model):
    loaded = small_model(family)
    bound = Prefix(TEXT, 6, layers=2, scale=scale).bind(loaded, 5)
    cache = loaded.model(torch.tensor([bound.prompt]), use_cache=True).past_key_values
    kept = [t[0].double().numpy() for layer in cache.layers[1:] for t in (layer.keys, layer.values)]
    size = sum(t.size for t in kept)
    # c √(L / k) with c = 0.4, three layers and four moved tensors, for the root mean square of an entry.
    length = 0.4 * np.sqrt(3 / 4) * np.sqrt(size / 6) if scale is None else scale
    x = np.random.default_rng(0).standard_normal((2, 6))
    parts = np.split(x @ directions(5, 0x9EF1, 6, size) * length, np.cumsum([t.size for t in kept])[:-1], axis=1)
    deltas = bound.deltas(torch.from_numpy(x))
    assert [delta.layer for delta in deltas] == [1, 2]
    for found, part, tensor in zip([t for d in deltas for t in (d.keys, d.values)], parts, kept, strict=True):
        expected = part.reshape(2, *tensor.shape) * np.sqrt(np.mean(tensor**2))
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("cls", [Prefix, SoftPrompt])
def test_the_text_is_tokenised_without_special_tokens(cls, tiny_gpt2, tiny_bert):
    for loaded in (tiny_gpt2, tiny_bert) if cls is SoftPrompt else (tiny_gpt2,):
        prompt = cls("it was good", 3).bind(loaded, 0).prompt
        assert not set(prompt) & set(loaded.tokenizer.all_special_ids)
        assert loaded.tokenizer.decode(prompt).strip() == "it was good"


@pytest.mark.parametrize("cls", [Prefix, SoftPrompt])
def test_the_text_is_part_of_the_description(cls, text_task):
    specs = [lp.ProblemSpec("tiny-gpt2", text_task, cls(text, 4)) for text in ("It was", "It is")]
    assert specs[0].fingerprint("m") != specs[1].fingerprint("m")
    assert json.loads(specs[0].to_json())["subspace"]["text"] == "It was"


@pytest.mark.parametrize("within", [lambda part: part, lambda part: Together((LoRAXS(2, layers=1), part))])
@pytest.mark.parametrize("cls", [Prefix, SoftPrompt])
def test_a_stored_basis_brings_the_tokens_it_was_made_for(cls, within, small_model, tmp_path):
    """As where another version of a tokenizer splits the text in another way."""
    loaded = small_model("llama")
    mine, other = (within(cls(text, 4)).bind(loaded, 0) for text in ("Say it: ", "Tell me:"))
    hashes = mine.basis_hash(), other.basis_hash()
    save_basis(mine, tmp_path / "basis")
    assert mine.prompt != other.prompt
    load_basis(other, tmp_path / "basis")
    assert other.prompt == mine.prompt
    assert other.basis_hash() == hashes[0] != hashes[1]


@pytest.mark.parametrize("text", ["", None, 3, b"x", ["a"]])
@pytest.mark.parametrize("cls", [Prefix, SoftPrompt])
def test_a_text_that_is_none_is_refused(cls, text):
    with pytest.raises(ValueError, match="text must be the prompt"):
        cls(text)


def test_a_text_without_tokens_is_refused(small_pair):
    core = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "word": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()  # keeps none of it
    words = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", pad_token="<pad>")
    loaded = load_model((small_pair("gpt2")[0], words))
    with pytest.raises(ValueError, match=r"the prompt text '  ' has no tokens"):
        SoftPrompt("  ").bind(loaded, 0)


@pytest.mark.parametrize("cls", [Prefix, SoftPrompt])
def test_numbers_that_do_not_fit_are_refused(cls, small_model, monkeypatch):
    loaded = small_model("llama")
    with pytest.raises(ValueError, match="64 tokens, which leaves no room in the model's context of 64"):
        cls("x" * 64).bind(loaded, 0)
    with pytest.raises(ValueError, match="dimension must be an integer of at least 1"):
        cls(TEXT, 0)
    numbers = 32 if cls is SoftPrompt else 3 * 2 * 2 * 8  # hidden; layers, keys and values, shared heads, size
    with pytest.raises(ValueError, match=rf"dimension {numbers + 1} is above the number of .*, {numbers}"):
        cls("x", numbers + 1).bind(loaded, 0)
    assert cls("x", numbers).bind(loaded, 0).dimension == numbers
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100})())
    with pytest.raises(ValueError, match=r"GiB are free: choose a shorter text or a smaller dimension"):
        cls(TEXT, 20).bind(loaded, 0)


@pytest.mark.parametrize(("family", "what"), [("bert", "a masked"), ("t5", "an encoder-decoder")])
def test_a_prefix_is_for_causal_models(family, what, small_model):
    with pytest.raises(ValueError, match=rf"is {what} model: SoftPrompt\(text, …\) moves"):
        Prefix(TEXT).bind(small_model(family), 0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (0, "from 1 to 3"),
        (4, "from 1 to 3"),
        ([3], "layer 3 does not exist"),
        ([1, 1], "at most once"),
        ("last", "k for"),
    ],
)
def test_layers_of_a_prefix_that_do_not_fit_are_refused(layers, message, small_model):
    with pytest.raises(ValueError, match=message):
        Prefix(TEXT, layers=layers).bind(small_model("llama"), 0)
