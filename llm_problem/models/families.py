"""Where each model family keeps its layers and projections, under one set of names.

The names are Llama's (`q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`); a family that
fuses projections says which output rows are which. A family that is not listed works by its own module names.

An encoder-decoder family's layers are those of its decoder, whose cross attention has the names `cross_q_proj`,
`cross_k_proj`, `cross_v_proj` and `cross_o_proj`; the encoder is a family of its own beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Part:
    """A named projection: the module that holds it, and which of the module's output rows it is (None: all)."""

    module: str
    rows: Callable[[Any], np.ndarray] | None = None


@dataclass(frozen=True)
class Family:
    """Path of the list of layers, and the named projections inside one layer; `encoder` where there is one beside."""

    layers: str
    parts: Mapping[str, Part] = field(default_factory=dict)
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
)
_BERT = _named(
    q_proj="attention.self.query",
    k_proj="attention.self.key",
    v_proj="attention.self.value",
    o_proj="attention.output.dense",
    up_proj="intermediate.dense",
    down_proj="output.dense",
)

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
    ),
    "gpt_neox": Family(
        "gpt_neox.layers",
        {
            "q_proj": Part("attention.query_key_value", _interleaved(0)),
            "k_proj": Part("attention.query_key_value", _interleaved(1)),
            "v_proj": Part("attention.query_key_value", _interleaved(2)),
            **_named(o_proj="attention.dense", up_proj="mlp.dense_h_to_4h", down_proj="mlp.dense_4h_to_h"),
        },
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
    ),
    "bert": Family("bert.encoder.layer", _BERT),
    "roberta": Family("roberta.encoder.layer", _BERT),
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
    return Family("decoder.block", {**own, **mlp(2), **cross}, Family("encoder.block", {**own, **mlp(1)}))


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
    return Family("model.decoder.layers", {**own, **cross}, Family("model.encoder.layers", own))


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
