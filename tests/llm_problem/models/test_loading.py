"""Loading: one door, one copy in a process, nothing that runs code, and reasons where it does not work."""

import gc
import json
import shutil
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import T5Model

from llm_problem.models import forget_models, load_model, loading, named_models


@pytest.fixture
def folder(tiny_gpt2, tmp_path):
    """A model directory of one's own."""
    path = tmp_path / "mine"
    shutil.copytree(tiny_gpt2.source, path)
    return path


@pytest.fixture
def bert_folder(tiny_bert, tmp_path):
    path = tmp_path / "masked"
    shutil.copytree(tiny_bert.source, path)
    return path


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_named_models_are_offered():
    assert set(named_models()) == {"smollm2-135m", "tiny-bert", "tiny-gpt2"}


@pytest.mark.parametrize(("name", "kind"), [("tiny_gpt2", "causal"), ("tiny_bert", "masked")])
def test_a_loaded_model_is_frozen(name, kind, request):
    loaded = request.getfixturevalue(name)
    assert loaded.kind == kind
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.max_length == loaded.model.config.max_position_embeddings


def test_weights_load_once_however_often_they_are_asked_for(tiny_gpt2, monkeypatch):
    monkeypatch.setattr(loading, "_load", lambda *args: pytest.fail("loaded again"))
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_model("tiny-gpt2"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(loaded is tiny_gpt2 for loaded in [*found, load_model(tiny_gpt2)])


def test_a_directory_loads_once_by_any_spelling_until_its_weights_change(folder, monkeypatch):
    loaded = load_model(folder)
    monkeypatch.chdir(folder)
    (folder / "sub").mkdir()
    assert load_model(".") is load_model(str(folder / "sub" / "..")) is loaded
    change_weights(folder, lambda tensors: tensors["transformer.ln_f.weight"].add_(1))
    assert load_model(folder) is not loaded
    assert load_model(folder).identity != loaded.identity


def test_another_dtype_is_another_model(tiny_gpt2):
    loaded = load_model("tiny-gpt2", dtype="bfloat16")
    assert loaded is not tiny_gpt2
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.identity != tiny_gpt2.identity


def test_identity_is_that_of_the_weights_wherever_they_lie(tiny_gpt2, folder):
    assert load_model(folder).identity == tiny_gpt2.identity
    change_weights(folder, lambda tensors: tensors["transformer.h.0.attn.c_proj.bias"][0].add_(1e-6))
    assert load_model(folder).identity != tiny_gpt2.identity


def test_a_pair_of_objects_is_taken_as_it_is(tiny_gpt2):
    pair = tiny_gpt2.model, tiny_gpt2.tokenizer
    loaded = load_model(pair)
    assert loaded is load_model(pair)
    assert loaded.model is tiny_gpt2.model
    assert loaded.kind == "causal"
    assert loaded.identity == tiny_gpt2.identity
    with pytest.raises(ValueError, match="made from a model object, which cannot be rebuilt"):
        load_model(loaded.name)


def test_memory_is_given_back_once_nobody_uses_a_model(folder):
    key = str(folder.resolve())
    load_model(folder)
    assert key in {name for name, *_ in loading._loaded}
    forget_models()
    gc.collect()
    assert key not in {name for name, *_ in loading._loaded}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "tiny-gtp2",
            "unknown model 'tiny-gtp2': .* one of smollm2-135m, tiny-bert, tiny-gpt2; did you mean tiny-gpt2",
        ),
        ("", "unknown model ''"),
        ("./no/such/folder", "not a directory"),
        ("/no-such-folder", "not a directory"),
        ("a/b/c", "not a hub id 'owner/name'"),
        ("../owner", "unknown model"),
    ],
)
def test_an_unknown_model_is_refused_with_what_there_is(model, message):
    with pytest.raises(ValueError, match=message):
        load_model(model)


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", 3.5, None])
def test_a_device_that_is_not_there_is_refused_with_those_there_are(device, monkeypatch):
    monkeypatch.setattr("llm_problem.models.loading._load", lambda *args: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=rf"device {device!r} is not there: torch .* offers cpu"):
        load_model("tiny-gpt2", device=device)


def test_settings_and_things_that_are_no_model_are_refused(tiny_gpt2):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, got 'float16'"):
        load_model("tiny-gpt2", dtype="float16")
    with pytest.raises(TypeError, match="got NoneType"):
        load_model(None)
    with pytest.raises(TypeError, match="must be a PreTrainedModel, got str"):
        load_model(("tiny-gpt2", tiny_gpt2.tokenizer))
    with pytest.raises(TypeError, match="must be a tokenizer, got NoneType"):
        load_model((tiny_gpt2.model, None))


def test_a_directory_without_safetensors_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"{folder} has no \*\.safetensors\. Load it where you trust it"):
        load_model(folder)


def test_a_pickle_is_never_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    witness = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return open, (str(witness), "w")

    torch.save({"weights": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*\.safetensors \(only pytorch_model\.bin, .* can run code\)"):
        load_model(folder)
    # An unrelated safetensors file does not make transformers fall back to the pickle.
    save_file({"a": torch.zeros(1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="cannot load"):
        load_model(folder)
    assert not witness.exists()


def test_a_directory_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model directory: it has no config\.json"):
        load_model(tmp_path)


def test_missing_weights_are_refused_instead_of_made_up(folder, bert_folder):
    change_weights(folder, lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.weight"))
    with pytest.raises(ValueError, match=r"lacks 1 of the weights of a GPT2LMHeadModel: transformer\.h\.1\.mlp\.c_fc"):
        load_model(folder)

    def drop_head(tensors):
        for name in [name for name in tensors if name.startswith("cls.")]:
            del tensors[name]

    change_weights(bert_folder, drop_head)
    with pytest.raises(ValueError, match="weights of a BertForMaskedLM: cls"):
        load_model(bert_folder)


def test_a_directory_without_a_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match="mine has no tokenizer"):
        load_model(folder)


def test_damaged_files_are_refused_with_the_folder_named(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(ValueError, match=r"cannot load '.*mine' from safetensors"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot load '.*mine'"):
        load_model(folder)


def test_a_model_without_a_language_modelling_head_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(ValueError, match="language-modelling head is needed, got vit"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "architectures": ["WhisperModel"]}))
    with pytest.raises(ValueError, match="encoder-decoder model that reads and writes text is needed, got whisper"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5Model"]}))
    with pytest.raises(ValueError, match=r"lacks .* of the weights of a T5ForConditionalGeneration"):
        load_model(folder)


@pytest.mark.parametrize("family", ["t5", "mt5", "marian"])
def test_an_encoder_decoder_model_loads_from_a_directory(family, small_pair, tmp_path):
    model, tokenizer = small_pair(family)
    model.save_pretrained(tmp_path / "it")
    tokenizer.save_pretrained(tmp_path / "it")
    loaded = load_model(tmp_path / "it")
    assert (loaded.kind, loaded.layers, loaded.decoder_start, loaded.max_length) == ("seq2seq", 3, 1, 64)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        logits = [m(input_ids=ids, decoder_input_ids=ids[:, :4]).logits for m in (model.eval(), loaded.model)]
    torch.testing.assert_close(logits[1], logits[0])


def test_loading_leaves_torchs_generator_where_it_was(small_pair, tmp_path):
    """Marian draws numbers before it is given its weights."""
    for part in small_pair("marian"):
        part.save_pretrained(tmp_path)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_encoder_decoder_without_a_head_is_refused(small_pair):
    model, tokenizer = small_pair("t5")
    with pytest.raises(ValueError, match="a language-modelling head is needed, got T5Model"):
        load_model((T5Model(model.config), tokenizer))


def test_a_model_that_does_not_say_how_targets_start_is_refused_when_asked(small_pair):
    model, tokenizer = small_pair("t5")
    model.generation_config.decoder_start_token_id = None
    loaded = load_model((model, tokenizer))
    assert loaded.decoder_start == 1
    del model.config.decoder_start_token_id
    with pytest.raises(ValueError, match="does not say which token a target starts with"):
        _ = loaded.decoder_start


def test_loading_says_nothing_and_leaves_transformers_settings_alone(folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
