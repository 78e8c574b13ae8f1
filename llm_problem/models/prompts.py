"""A text that stands in front of everything a model reads: its tokens, its embeddings, and the cache it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llm_problem.models.loading import LoadedModel

KeysAndValues = tuple[torch.Tensor, torch.Tensor]
"""Of one layer, each (shared heads, p, size), keys normed and turned by position."""


def prompt_tokens(model: LoadedModel, text: str) -> tuple[int, ...]:
    """The tokens of a prompt text, without special tokens.

    Raises:
        ValueError: the text has no tokens, or as many as the model can read.
    """
    ids = tuple(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if not ids:
        raise ValueError(f"the prompt text {text!r} has no tokens: at least one is needed, for its embedding to move")
    if len(ids) >= model.max_length:
        raise ValueError(
            f"the prompt text has {len(ids)} tokens, which leaves no room in the model's context of "
            f"{model.max_length}: choose a shorter text"
        )
    return ids


def reading_embeddings(model: Any) -> Any:
    """The module that embeds what is read: of an encoder-decoder model, the encoder's."""
    return (model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model).get_input_embeddings()


def prompt_embeddings(model: LoadedModel, prompt: Sequence[int]) -> torch.Tensor:
    """What the prompt's tokens look like to the model, (p, hidden): before positions are added and norms applied."""
    embeddings = reading_embeddings(model.model)
    with torch.no_grad():
        return embeddings(torch.tensor([prompt], device=embeddings.weight.device))[0]


def prompt_cache(model: LoadedModel, prompt: Sequence[int]) -> list[KeysAndValues]:
    """The keys and values that every layer of a causal model keeps of the prompt.

    Raises:
        ValueError: the model keeps something else.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    ids = torch.tensor([prompt], device=model.model.device)
    with model.lock, torch.no_grad():
        model.model(input_ids=ids, past_key_values=cache, use_cache=True)
    kept = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    if len(kept) != model.layers or not all(_of_every_token(t, len(prompt)) for pair in kept for t in pair):
        raise ValueError(f"{model.name} does not keep a key and a value of every token in every layer")
    return [(keys[0].detach(), values[0].detach()) for keys, values in kept]  # type: ignore[index]


def _of_every_token(tensor: Any, tokens: int) -> bool:
    """Whether this is (1, heads, tokens, size)."""
    return isinstance(tensor, torch.Tensor) and tensor.ndim == 4 and tensor.shape[2] == tokens
