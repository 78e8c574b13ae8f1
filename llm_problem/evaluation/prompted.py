"""A stock model whose prompt looks as a candidate wants it, for as long as a block lasts.

Whatever the model reads must start with the prompt's tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from llm_problem.evaluation.remembering import forward_of
from llm_problem.models.loading import LoadedModel
from llm_problem.models.prompts import KeysAndValues, reading_embeddings
from llm_problem.subspaces.deltas import Delta, EmbeddingDelta, PrefixDelta
from llm_problem.tasks.batch import TokenBatch


def require_prompt(batch: TokenBatch, prompt: Sequence[int]) -> None:
    """Refuse a batch whose texts do not all start with the prompt.

    Raises:
        ValueError: one does not.
    """
    if not prompt:
        return
    for ids in batch.sources or batch.sequences:
        if not np.array_equal(ids[: len(prompt)], prompt):
            raise ValueError("a text does not start with the subspace's prompt: use batch.prompted(subspace.prompt)")


@contextmanager
def prompt_moved(
    model: LoadedModel, deltas: Sequence[Delta], cache: Sequence[KeysAndValues] | None = None
) -> Iterator[None]:
    """The changes of a prompt among the deltas of one candidate; the others are left to the caller.

    Args:
        model: read without padding, or with padding on the right (a prefix: without).
        deltas: of one candidate.
        cache: what the pretrained model keeps of the prompt; needed where a prefix is moved.
    """
    prefixes = [delta for delta in deltas if isinstance(delta, PrefixDelta)]
    with ExitStack() as stack:
        for delta in deltas:
            if isinstance(delta, EmbeddingDelta):
                offsets = delta.value[0]  # (p, hidden)
                places = torch.arange(len(offsets), device=offsets.device)
                stack.enter_context(embeddings_moved(model.model, places, offsets))
        if prefixes:
            assert cache is not None
            stack.enter_context(_prefix_put(model, moved_cache(cache, prefixes)))
        yield


@contextmanager
def embeddings_moved(model: Any, places: torch.Tensor, offsets: torch.Tensor) -> Iterator[None]:
    """Offsets (m, hidden), or (n, m, hidden) row by row, are added to the input embeddings at places (m,)."""
    reading = not getattr(model.config, "is_encoder_decoder", False)

    def begin(module: nn.Module, *args: Any) -> None:
        nonlocal reading
        reading = True

    def end(module: nn.Module, *args: Any) -> None:
        nonlocal reading
        reading = False

    def add(module: nn.Module, args: Any, embedded: torch.Tensor) -> torch.Tensor | None:
        return embedded.index_add(1, places, offsets.to(embedded).expand(len(embedded), -1, -1)) if reading else None

    with ExitStack() as stack:
        if not reading:  # a decoder may look its tokens up in the encoder's embeddings
            stack.callback(model.get_encoder().register_forward_pre_hook(begin).remove)
            stack.callback(model.get_encoder().register_forward_hook(end).remove)
        stack.callback(reading_embeddings(model).register_forward_hook(add).remove)
        yield


def moved_cache(cache: Sequence[KeysAndValues], prefixes: Sequence[PrefixDelta]) -> list[KeysAndValues]:
    """The pretrained model's cache with the offsets of one candidate, each (shared heads, p, size)."""
    moved = list(cache)
    for delta in prefixes:
        keys, values = moved[delta.layer]
        moved[delta.layer] = keys + delta.keys[0].to(keys), values + delta.values[0].to(values)
    return moved


@contextmanager
def _prefix_put(model: LoadedModel, cache: Sequence[KeysAndValues]) -> Iterator[None]:
    """The model finds the prompt in its cache: it reads what comes after, and has no logits at the prompt's places."""
    from transformers import DynamicCache

    stock, p, takes_positions = model.model.forward, cache[0][0].shape[1], model.takes("position_ids")

    def forward(input_ids: torch.Tensor, **options: Any) -> Any:
        count, length = input_ids.shape
        options["use_cache"] = True
        if takes_positions:
            options["position_ids"] = torch.arange(p, length, device=input_ids.device)[None]
        # A new one each time, because a forward pass adds what it reads.
        own = DynamicCache([(k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in cache])
        output = stock(input_ids=input_ids[:, p:], past_key_values=own, **options)
        none = output.logits.new_full((count, p, output.logits.shape[-1]), torch.nan)
        output.logits = torch.cat([none, output.logits], dim=1)
        return output

    with forward_of(model.model, forward):
        yield
