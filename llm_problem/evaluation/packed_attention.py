"""Attention over several sequences that stand in one row without padding.

Registered with transformers as an attention implementation of its own, so that whole stock layers of any family run
on packed tokens: token-wise modules do not mind who their neighbours are, and attention looks at one sequence at a
time. The bounds of the sequences come as an argument of the forward call, never from a global.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "llm_problem_packed"


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_bounds: tuple[int, ...] | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Scaled dot-product attention sequence by sequence.

    Args:
        module: the attention module; its `is_causal` holds where `is_causal` is not given.
        query: (1, heads, T, head size).
        key: (1, a divisor of those heads, T, head size).
        value: as key.
        attention_mask: not read: the bounds say who sees whom.
        scaling: of the scores; None is 1/√(head size).
        dropout: not read: the model is in evaluation mode.
        packed_bounds: 0 = b_0 < b_1 < … = T; sequence i is tokens b_i to b_{i+1} − 1.
        is_causal: whether a token sees only those before it and itself.
        **kwargs: what else a family passes along; not read.

    Returns:
        (1, T, heads, head size) and None for the weights.
    """
    if packed_bounds is None:
        raise RuntimeError("packed attention was reached without the bounds of its sequences")
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    grouped = query.shape[1] != key.shape[1]
    parts = [
        scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=causal, scale=scaling, enable_gqa=grouped
        )
        for a, b in pairwise(packed_bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


AttentionInterface.register(NAME, packed_attention)


@contextmanager
def attention_packed(model: Any) -> Iterator[None]:
    """The model with packed attention; its own implementation comes back whatever happens. Hold the model's lock."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
