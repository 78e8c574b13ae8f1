"""Where each model family keeps its layers and projections, under one set of names, and how its layers are built.

The names are Llama's (`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`); a family that
fuses projections says which output rows are which. A family that is not listed works by its own module names. A new
one costs an entry here: the paths and, for the fast evaluator, a `Form`; tests run over all entries.

An encoder-decoder family's layers are those of its decoder, whose cross attention has the names `cross_q_proj`,
`cross_k_proj`, `cross_v_proj` and `cross_o_proj`; the encoder is a family of its own beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn
from torch.nn.functional import gelu


@dataclass(frozen=True)
class Part:
    """A named projection: the module that holds it, and which of the module's output rows it is (None: all)."""

    module: str
    rows: Callable[[Any], np.ndarray] | None = None


@dataclass(frozen=True)
class Form:
    """How the pieces of a layer make up the layer, and what follows the last one.

    `residual` says of a configuration where the norms stand: "pre" (x + f(norm(x)), attention then MLP), "parallel"
    (x + attention(norm(x)) + mlp(norm'(x))) or "post" (norm(x + f(x)), attention then MLP).
    """

    norms: tuple[str, str]
    """Paths in a layer: the norm of attention and that of the MLP."""
    activation: str
    """Path in a layer."""
    tail: tuple[str | Callable[[Any], Any], ...]
    """What stands between the last layer and the output embeddings: paths in the model, or functions."""
    residual: Callable[[Any], str] = lambda config: "pre"


@dataclass(frozen=True)
class Family:
    """Path of the list of layers, the named projections inside one layer, and the form of a layer where it is known.

    `encoder` is the family of the encoder's layers where there are layers of a decoder beside them.
    """

    layers: str
    parts: Mapping[str, Part] = field(default_factory=dict)
    form: Form | None = None
    encoder: Family | None = None


def _third(k: int) -> Callable[[Any], np.ndarray]:
    """Rows of the k-th of three projections that stand one after another (GPT-2's c_attn)."""
    return lambda config: np.arange(k * config.hidden_size, (k + 1) * config.hidden_size)


def _interleaved(k: int) -> Callable[[Any], np.ndarray]:
    """Rows of the k-th of three projections that are interleaved head by head (GPT-NeoX's query_key_value)."""

    def rows(config: Any) -> np.ndarray:
        heads = config.num_attention_heads
        return np.arange(3 * config.hidden_size).reshape(heads, 3, config.hidden_size // heads)[:, k].ravel()

    return rows


def _named(**modules: str) -> dict[str, Part]:
    return {name: Part(module) for name, module in modules.items()}


_LLAMA = Family(
    "model.layers",
    _named(
        q_proj="self_attn.q_proj",
        k_proj="self_attn.k_proj",
        v_proj="self_attn.v_proj",
        o_proj="self_attn.o_proj",
        gate_proj="mlp.gate_proj",
        up_proj="mlp.up_proj",
        down_proj="mlp.down_proj",
    ),
    Form(("input_layernorm", "post_attention_layernorm"), "mlp.act_fn", ("model.norm",)),
)
_BERT = _named(
    q_proj="attention.self.query",
    k_proj="attention.self.key",
    v_proj="attention.self.value",
    o_proj="attention.output.dense",
    up_proj="intermediate.dense",
    down_proj="output.dense",
)
_BERT_NORMS = ("attention.output.LayerNorm", "output.LayerNorm")

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "gpt2": Family(
        "transformer.h",
        {
            "q_proj": Part("attn.c_attn", _third(0)),
            "k_proj": Part("attn.c_attn", _third(1)),
            "v_proj": Part("attn.c_attn", _third(2)),
            **_named(o_proj="attn.c_proj", up_proj="mlp.c_fc", down_proj="mlp.c_proj"),
        },
        Form(("ln_1", "ln_2"), "mlp.act", ("transformer.ln_f",)),
    ),
    "gpt_neox": Family(
        "gpt_neox.layers",
        {
            "q_proj": Part("attention.query_key_value", _interleaved(0)),
            "k_proj": Part("attention.query_key_value", _interleaved(1)),
            "v_proj": Part("attention.query_key_value", _interleaved(2)),
            **_named(o_proj="attention.dense", up_proj="mlp.dense_h_to_4h", down_proj="mlp.dense_4h_to_h"),
        },
        Form(
            ("input_layernorm", "post_attention_layernorm"),
            "mlp.act",
            ("gpt_neox.final_layer_norm",),
            lambda config: "parallel" if config.use_parallel_residual else "pre",
        ),
    ),
    "opt": Family(
        "model.decoder.layers",
        _named(
            q_proj="self_attn.q_proj",
            k_proj="self_attn.k_proj",
            v_proj="self_attn.v_proj",
            o_proj="self_attn.out_proj",
            up_proj="fc1",
            down_proj="fc2",
        ),
        Form(
            ("self_attn_layer_norm", "final_layer_norm"),
            "activation_fn",
            ("model.decoder.final_layer_norm", "model.decoder.project_out"),
            lambda config: "pre" if config.do_layer_norm_before else "post",
        ),
    ),
    "bert": Family(
        "bert.encoder.layer",
        _BERT,
        Form(
            _BERT_NORMS,
            "intermediate.intermediate_act_fn",
            tuple(f"cls.predictions.transform.{piece}" for piece in ("dense", "transform_act_fn", "LayerNorm")),
            lambda config: "post",
        ),
    ),
    "roberta": Family(
        "roberta.encoder.layer",
        _BERT,
        Form(
            _BERT_NORMS,
            "intermediate.intermediate_act_fn",
            ("lm_head.dense", gelu, "lm_head.layer_norm"),
            lambda config: "post",
        ),
    ),
}


def _t5(config: Any) -> Family:
    """T5 in its two forms: a plain MLP, or (from version 1.1 on, and mT5) a gated one."""

    def attention(path: str, prefix: str = "") -> dict[str, Part]:
        return {f"{prefix}{letter}_proj": Part(f"{path}.{letter}") for letter in "qkvo"}

    def mlp(layer: int) -> dict[str, Part]:
        path = f"layer.{layer}.DenseReluDense"
        first = {"gate_proj": "wi_0", "up_proj": "wi_1"} if config.is_gated_act else {"up_proj": "wi"}
        return {name: Part(f"{path}.{module}") for name, module in {**first, "down_proj": "wo"}.items()}

    own, cross = attention("layer.0.SelfAttention"), attention("layer.1.EncDecAttention", "cross_")
    return Family("decoder.block", {**own, **mlp(2), **cross}, encoder=Family("encoder.block", {**own, **mlp(1)}))


def _marian(config: Any) -> Family:
    own = _named(
        q_proj="self_attn.q_proj",
        k_proj="self_attn.k_proj",
        v_proj="self_attn.v_proj",
        o_proj="self_attn.out_proj",
        up_proj="fc1",
        down_proj="fc2",
    )
    cross = _named(
        cross_q_proj="encoder_attn.q_proj",
        cross_k_proj="encoder_attn.k_proj",
        cross_v_proj="encoder_attn.v_proj",
        cross_o_proj="encoder_attn.out_proj",
    )
    return Family("model.decoder.layers", {**own, **cross}, encoder=Family("model.encoder.layers", own))


ENCODER_DECODERS: dict[str, Callable[[Any], Family]] = {"t5": _t5, "mt5": _t5, "marian": _marian}
"""Families with an encoder and a decoder, from a model's configuration."""


def family_of(model: Any) -> Family:
    """The family of a transformers model; for one that is not listed, its longest list of modules is its layers.

    Raises:
        ValueError: the model has no list of layers at all.
    """
    config = model.config
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    if config.model_type in ENCODER_DECODERS:
        return ENCODER_DECODERS[config.model_type](config)
    if getattr(config, "is_encoder_decoder", False):
        return Family(
            _longest_list(model, model.get_decoder()), encoder=Family(_longest_list(model, model.get_encoder()))
        )
    return Family(_longest_list(model, model))


def _longest_list(model: Any, part: nn.Module) -> str:
    """Path in `model` of the longest list of modules inside `part` of it."""
    inside = set(part.modules())
    lists = {name: len(m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and m in inside}
    if not lists:
        raise ValueError(f"cannot find the layers of a {model.config.model_type} model")
    return max(lists, key=lambda name: lists[name])
