"""Prefix tuning (Li & Liang 2021, arXiv:2101.00190): keys and values that every layer finds in its cache.

They are what the pretrained model keeps of a real text, with the point's offsets added. PEFT stores a row for each of
the p tokens: keys, then values, of one layer after another, each the numbers of its (shared) heads.
"""

from __future__ import annotations

import torch

from llm_problem.export.point import Adapter, NoAdapterError, Point, as_stored
from llm_problem.models.prompts import prompt_cache
from llm_problem.subspaces.deltas import PrefixDelta


def prefix_tuning(point: Point) -> Adapter:
    """The adapter of a point that moves a prompt's keys and values.

    Raises:
        NoAdapterError: the layers' keys and values are not all of one shape, or not of that which PEFT expects.
    """
    cache = prompt_cache(point.loaded, point.prompt)
    shapes = {tuple(tensor.shape) for layer in cache for tensor in layer}
    if len(shapes) > 1:
        raise NoAdapterError(f"the keys and values of {point.loaded.name} are of several shapes: {sorted(shapes)}")
    ((heads, tokens, size),) = shapes
    _require_as_configured(point, heads, size)
    for delta in point.deltas:
        assert isinstance(delta, PrefixDelta)
        keys, values = cache[delta.layer]
        cache[delta.layer] = (keys + delta.keys[0].to(keys), values + delta.values[0].to(values))
    stacked = torch.stack([tensor for layer in cache for tensor in layer])  # (2 layers, heads, p, size)
    config = {
        "num_virtual_tokens": tokens,
        "token_dim": heads * size,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": point.loaded.layers,
        "encoder_hidden_size": heads * size,
        "prefix_projection": False,
    }
    flat = stacked.permute(2, 0, 1, 3).reshape(tokens, -1)  # (p, 2 layers · heads · size)
    return Adapter("PREFIX_TUNING", config, {"prompt_embeddings": as_stored(flat.float())})


def _require_as_configured(point: Point, heads: int, size: int) -> None:
    """The heads that a cache keeps are those that the model's configuration speaks of, which PEFT goes by."""
    config = point.loaded.model.config.to_dict()
    said = config.get("num_key_value_heads", heads), config.get("head_dim") or size
    if "num_key_value_heads" in config and said != (heads, size):
        raise NoAdapterError(
            f"the configuration of {point.loaded.name} speaks of {said[0]} shared heads of size {said[1]}, which PEFT "
            f"goes by, and its layers keep {heads} of size {size}"
        )
