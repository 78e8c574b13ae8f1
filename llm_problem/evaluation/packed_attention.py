"""Attention over packed sequences for whole stock layers.

Registered with transformers as an attention implementation of its own, so that the stock layers of any family run on
packed tokens. Who attends to whom comes as an argument of the forward call, never from a global.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface

from llm_problem.evaluation.attention import AttentionGroups, Heads, attend
from llm_problem.models.prompts import KeysAndValues

NAME = "llm_problem_packed"


@dataclass(frozen=True, eq=False)
class PrefixInRow:
    """Keys and values that stand at the places of a prompt instead of those that are computed there."""

    places: torch.Tensor  # (p,) in the row
    cache: Sequence[KeysAndValues]  # layer by layer


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: AttentionGroups | None = None,
    prefix: PrefixInRow | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention, sequence by sequence.

    Args:
        module: the attention module; its number among the layers is read where there is a prefix.
        query: (1, heads, T, size).
        key: (1, a divisor of those heads, T, size).
        value: as key.
        attention_mask: not read: `packed` says who sees whom.
        scaling: of the scores; None is 1/√size.
        dropout: not read: the model is in evaluation mode.
        packed: who attends to whom.
        prefix: what is put in the place of a prompt's keys and values.
        **kwargs: what else a family passes along; not read.

    Returns:
        (1, T, heads, size) and None for the weights.
    """
    if packed is None:
        raise RuntimeError("packed attention was reached without being told which sequences there are")
    if prefix is not None:
        own = prefix.cache[module.layer_idx]
        key, value = (t.index_copy(2, prefix.places, put[None]) for t, put in zip((key, value), own, strict=True))
    size = query.shape[-1]
    q, k, v = (Heads(t.transpose(1, 2).contiguous(), 0, t.shape[1]) for t in (query, key, value))
    out = attend(packed, q, k, v, size**-0.5 if scaling is None else scaling)
    return out.view(1, query.shape[2], -1, size), None


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def attention_packed(model: Any, name: str = NAME) -> Iterator[None]:
    """The model with packed attention; its own implementation comes back whatever happens. Hold the model's lock."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
