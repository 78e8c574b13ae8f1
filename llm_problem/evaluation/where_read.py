"""Whole stock layers without what nobody reads: projections of the last layer at other places, other words' logits.

After the last layer only some places are read, so that there its queries and everything after attention may be anything
elsewhere; keys and values may not. Modules keep their shapes: what is left out is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import linear

from llm_problem.evaluation.packing import Row
from llm_problem.models.families import FAMILIES
from llm_problem.models.quantised import is_quantised

MOST = 0.5  # share of the places that are read, above which gathering and scattering would not pay
_SEEN_BY_OTHERS = ("k_proj", "v_proj")


@contextmanager
def last_layer_where_read(model: Any, keep: torch.Tensor, places: int) -> Iterator[None]:
    """The last layer's projections, but for keys and values, at the places `keep` (p,) of `places` only."""
    wrapped = []
    try:
        if keep.numel() <= MOST * places:
            family = FAMILIES[model.config.model_type]
            layer = model.get_submodule(family.layers)[-1]
            shared = {part.module for name, part in family.parts.items() if name in _SEEN_BY_OTHERS}
            for path in {part.module for part in family.parts.values()} - shared:
                module = layer.get_submodule(path)
                # An instance attribute shadows the class's method; deleting it brings that back.
                module.forward = _at(module.forward, keep)
                wrapped.append(module)
        yield
    finally:
        for module in wrapped:
            module.__dict__.pop("forward", None)


def _at(forward: Callable[[torch.Tensor], torch.Tensor], keep: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    def at_keep(x: torch.Tensor) -> torch.Tensor:
        found = forward(x.index_select(-2, keep))  # (…, p, out); OPT flattens the row
        return found.new_zeros((*x.shape[:-1], found.shape[-1])).index_copy(-2, keep, found)

    return at_keep


@contextmanager
def head_of_words(model: Any, row: Row) -> Iterator[None]:
    """The head gives logits (1, p, k) of the row's k words only."""
    head = model.get_output_embeddings()

    def forward(h: torch.Tensor) -> torch.Tensor:
        bias = None if head.bias is None else head.bias[row.words]
        weight = head.weight.dequantize() if is_quantised(head.weight) else head.weight  # gradients may flow to it
        return linear(h, weight[row.words].to(h.dtype), bias)

    head.forward = forward
    try:
        yield
    finally:
        head.__dict__.pop("forward", None)
