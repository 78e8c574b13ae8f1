"""One door for every model: a name, a directory, a hub id, or objects that are loaded already.

A model is loaded once per process and shared by every problem that asks for it (and so by every copy that an
optimization framework makes of a problem). It is frozen: evaluation mode, no gradients, never written to.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from llm_problem.models.cache import say
from llm_problem.models.families import family_of
from llm_problem.models.quantised import plain
from llm_problem.models.quiet import quiet_transformers
from llm_problem.models.smollm2 import smollm2_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_OBJECT = "object:"


@dataclass(eq=False)
class LoadedModel:
    """A frozen model with its tokenizer.

    `kind` is "causal" (predicts the next token), "masked" (predicts masked tokens) or "seq2seq" (an encoder reads a
    source, a decoder predicts the next token of a target). `identity` names the weights whatever path they came from.
    `lock` is held by whoever runs the model with changed parameters.
    """

    name: str
    model: Any
    tokenizer: Any
    kind: str
    source: Path | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    _identity: str | None = None

    def takes(self, argument: str) -> bool:
        """Whether the model's forward pass has an argument of this name."""
        return argument in inspect.signature(self.model.forward).parameters

    @property
    def max_length(self) -> int:
        """The longest sequence in tokens that the model takes (an encoder-decoder: as a source, and as a target)."""
        config = self.model.config
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**31
        if config.model_type in ("roberta", "xlm-roberta", "camembert"):
            limit -= self.tokenizer.pad_token_id + 1  # their positions start after the padding index
        return int(min(limit, getattr(self.tokenizer, "model_max_length", limit) or limit))

    @property
    def layers(self) -> int:
        """How many layers the model has (an encoder-decoder: its decoder)."""
        return len(self.model.get_submodule(family_of(self.model).layers))

    @property
    def decoder_start(self) -> int:
        """The token that an encoder-decoder model's targets start with.

        Raises:
            ValueError: neither of the model's configurations names one.
        """
        for config in (self.model.config, getattr(self.model, "generation_config", None)):
            token = getattr(config, "decoder_start_token_id", None)
            if isinstance(token, int):
                return token
        raise ValueError(f"{self.name} does not say which token a target starts with (config.decoder_start_token_id)")

    @property
    def identity(self) -> str:
        """sha256 of the weights and the architecture (64 hex digits)."""
        if self._identity is None:
            self._identity = _state_hash(self.model)
        return self._identity


def named_models() -> dict[str, Callable[[], Path]]:
    """The models that have a name of their own, each with the function that says (and fills) their folder."""
    bundled = resources.files("llm_problem.models") / "bundled"
    return {
        "smollm2-135m": smollm2_folder,
        "tiny-bert": lambda: Path(str(bundled / "tiny-bert")),
        "tiny-gpt2": lambda: Path(str(bundled / "tiny-gpt2")),
    }


_loaded: weakref.WeakValueDictionary[tuple, LoadedModel] = weakref.WeakValueDictionary()
_objects: weakref.WeakValueDictionary[tuple, LoadedModel] = weakref.WeakValueDictionary()
_latest: list[LoadedModel] = []  # one strong reference, so that problems made in turn do not reload their model
_loading = threading.Lock()


def load_model(model: Any, *, dtype: str = "float32", device: str = "cpu", keep: bool = True) -> LoadedModel:
    """Load a model, or hand out the one that this process has already.

    Args:
        model: a name of `named_models()`, a directory with safetensors weights, a hub id "owner/name", or a pair
            (PreTrainedModel, tokenizer).
        dtype: "float32" or "bfloat16", for weights and activations (a pair keeps its own).
        device: a torch device (a pair keeps its own).
        keep: whether to hold on to it for the next problem that asks for it, once nobody uses it.

    Raises:
        ValueError: an unknown name, a directory without safetensors, an unknown dtype, a device that is not there.
        TypeError: something else than a string, a path or a pair.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, tuple) and len(model) == 2:
        return _from_objects(*model)
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(
            "model must be a name, a directory, a hub id or a pair (PreTrainedModel, tokenizer), "
            f"got {type(model).__name__}"
        )
    device = _checked_device(device)
    name, folder, stamp = _resolve(os.fspath(model))
    key = (name, stamp, dtype, device)
    with _loading:
        loaded = _loaded.get(key)
        if loaded is None:
            loaded = _loaded[key] = _load(name, folder, dtype, device)
        if keep:
            _latest[:] = [loaded]
    return loaded


def _checked_device(device: Any) -> str:
    """The device's name, if this torch can put a tensor on it."""
    try:
        checked = torch.device(device)
        usable = checked.type != "meta" and torch.empty(0, device=checked).device.type == checked.type
    except (RuntimeError, TypeError, AssertionError, NotImplementedError, ImportError):
        usable = False
    if not usable:
        there = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise ValueError(f"device {device!r} is not there: torch {torch.__version__} offers {', '.join(there)} here")
    return str(checked)


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form of a hub id, owner/name."""
    return _HUB_ID.fullmatch(name) is not None


def forget_models() -> None:
    """Let go of the model that is kept for the next problem; memory is freed once no problem uses it."""
    _latest.clear()


def lasting_name(model: str) -> str:
    """What a description keeps of a name, directory or hub id: a directory's whole path. Nothing is loaded."""
    path = Path(model).expanduser()
    return str(path.resolve()) if model and model not in named_models() and path.is_dir() else model


def _resolve(model: str) -> tuple[str, Path | None, tuple]:
    """(name, folder or None for a hub id, what changes when the weights do)."""
    named = named_models()
    if model in named:
        folder = named[model]()
        return model, folder, ()
    path = Path(lasting_name(model)).expanduser()
    if model and path.is_dir():
        files = _weights_of(path)
        return str(path), path, tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files)
    if model.startswith(_OBJECT):
        raise ValueError("this problem was made from a model object, which cannot be rebuilt from its description")
    _require_hub_id(model, named)
    return model, None, ()


def require_name(model: str) -> None:
    """See that it is a name, a directory or a hub id, without looking whether the hub has it.

    Raises:
        ValueError: it is none of them; with the nearest names.
    """
    named = named_models()
    if model not in named and not (model and Path(model).expanduser().is_dir()):
        _require_hub_id(model, named)


def _require_hub_id(model: str, named: Iterable[str]) -> None:
    looks_like_path = model.startswith((".", "/", "~")) or "\\" in model
    if not looks_like_path and is_hub_id(model):
        return
    near = difflib.get_close_matches(model, named, n=3, cutoff=0.4)
    raise ValueError(
        f"unknown model {model!r}: not a directory, not a hub id 'owner/name', not one of {', '.join(sorted(named))}"
        + (f"; did you mean {' or '.join(near)}?" if near else "")
    )


def _weights_of(folder: Path) -> list[Path]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no model directory: it has no config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.gguf") for p in folder.glob(pattern))
        raise ValueError(
            f"{folder} has no *.safetensors"
            + (f" (only {', '.join(others[:4])}, which is not read: such files can run code)" if others else "")
            + ". Load it where you trust it and save it again with model.save_pretrained(...)"
        )
    # Without these files transformers gives an empty tokenizer instead of an error.
    if not any(any(folder.glob(pattern)) for pattern in ("tokenizer*", "vocab*", "*.model", "tekken.json")):
        raise ValueError(f"{folder} has no tokenizer: save it there with tokenizer.save_pretrained(...)")
    return files


def _load(name: str, folder: Path | None, dtype: str, device: str) -> LoadedModel:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoTokenizer

    if folder is None:
        say(f"loading {name} from the Hugging Face hub's cache, or from the hub where it is not cached yet")
    where = str(folder) if folder else name
    # Some architectures (Marian) draw numbers before they are given their weights: a user's seed stays where it was.
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        try:
            # Not None, at which transformers asks on the terminal whether to run the repository's code.
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
            kind = _kind(config)
            model, report = _auto_class(kind).from_pretrained(
                where,
                config=config,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"cannot load {where!r} from safetensors: {error}") from error
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"{where} brings code of its own, which is not run: where you trust it, load it with transformers and "
                "give the pair (model, tokenizer)"
            ) from error
    if missing := sorted(report["missing_keys"]):  # transformers makes them up, other ones in every process
        raise ValueError(
            f"{where} lacks {len(missing)} of the weights of a {type(model).__name__}: {', '.join(missing[:4])}"
            + (" …" if len(missing) > 4 else "")
        )
    model.to(device)
    return LoadedModel(name, _freeze(model), tokenizer, kind, source=folder)


def _from_objects(model: Any, tokenizer: Any) -> LoadedModel:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"the first of a (model, tokenizer) pair must be a PreTrainedModel, got {type(model).__name__}")
    if not callable(tokenizer):
        raise TypeError(f"the second of a (model, tokenizer) pair must be a tokenizer, got {type(tokenizer).__name__}")
    with _loading:
        loaded = _objects.get((id(model), id(tokenizer)))
        if loaded is None:
            loaded = LoadedModel("object", _freeze(model), tokenizer, _kind(model.config, model))
            for other in list(_objects.values()):  # the same model with another tokenizer
                if other.model is model:
                    loaded.lock = other.lock
            loaded.name = f"{_OBJECT}{model.config.model_type}-{loaded.identity[:12]}"
            _objects[id(model), id(tokenizer)] = loaded
    return loaded


def _freeze(model: Any) -> Any:
    return model.eval().requires_grad_(False)


def _auto_class(kind: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    return {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "seq2seq": AutoModelForSeq2SeqLM}[kind]


def _kind(config: Any, model: Any = None) -> str:
    if getattr(config, "is_encoder_decoder", False):
        return _encoder_decoder_kind(config, model)
    names = [type(model).__name__] if model is not None else list(getattr(config, "architectures", None) or [])
    if any(name.endswith(("ForMaskedLM", "ForPreTraining")) and "GPT" not in name for name in names):
        return "masked"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "causal"
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    causal, masked = (type(config) in auto._model_mapping for auto in (AutoModelForCausalLM, AutoModelForMaskedLM))
    if masked and not getattr(config, "is_decoder", False) and (not causal or config.model_type in ("bert", "roberta")):
        return "masked"
    if causal:
        return "causal"
    raise ValueError(f"a model with a language-modelling head is needed, got {config.model_type} {names or ''}")


def _encoder_decoder_kind(config: Any, model: Any) -> str:
    known = _auto_class("seq2seq")._model_mapping
    if type(config) not in known:
        raise ValueError(f"an encoder-decoder model that reads and writes text is needed, got {config.model_type}")
    if model is not None and not isinstance(model, known[type(config)]):
        raise ValueError(
            f"an encoder-decoder model with a language-modelling head is needed, got {type(model).__name__}"
        )
    return "seq2seq"


def _state_hash(model: Any) -> str:
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if not k.startswith(("_", "transformers_version"))}
    digest.update(repr(sorted((k, str(v)) for k, v in config.items() if k not in ("architectures", "dtype"))).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(plain(tensor).contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()
