"""A start for BERT from which it learns within minutes.

From random weights, a BERT of this size learnt nothing but token frequencies in the first hundreds of steps:
no gradient tells it to look at a masked token's neighbours until it does so already.
So the positions start as sinusoids (Vaswani et al. 2017), the first layer's heads start by looking at fixed
distances, and the output bias starts at the token frequencies.  All of it is trained further like any other
weight.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertForMaskedLM

OFFSETS = (-1, 1, -2, 2)
"""The distances in tokens at which the first layer's heads look at the start; as many are used as there are heads."""

_SHARPNESS = 2.0


def frequencies(width: int, longest: float = 256.0) -> torch.Tensor:
    """Angular frequencies in radians per token, (width / 2,), from pi down to 2 pi / `longest`."""
    return math.pi * (2 / longest) ** (torch.arange(width // 2) / (width // 2 - 1))


def sinusoids(length: int, width: int) -> torch.Tensor:
    """Sines, then cosines, of positions 0 to `length` - 1: (length, width), between -1 and 1."""
    # Half a token further, since the sine of the highest frequency is zero at every whole position.
    angles = (torch.arange(length)[:, None] + 0.5) * frequencies(width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def looking_at(offset: int, rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key weights, each (rows, width), of a head that looks `offset` tokens away.

    With them a query at position i and a key at position j have as product the sum over the `rows` / 2
    highest frequencies w of cos(w (i + offset - j)), times a constant; it is greatest at j = i + offset.
    """
    half, pairs = width // 2, torch.arange(rows // 2)
    turn = frequencies(width)[pairs] * offset
    key, query = torch.zeros(rows, width), torch.zeros(rows, width)
    key[2 * pairs, pairs] = key[2 * pairs + 1, half + pairs] = 1.0
    query[2 * pairs, pairs] = query[2 * pairs + 1, half + pairs] = turn.cos()
    query[2 * pairs, half + pairs] = turn.sin()
    query[2 * pairs + 1, pairs] = -turn.sin()
    return _SHARPNESS * query, _SHARPNESS * key


@torch.no_grad()
def look_at_neighbours(model: BertForMaskedLM) -> None:
    """Set the positions of `model` to sinusoids and its first layer's heads to look at `OFFSETS`."""
    positions = model.bert.embeddings.position_embeddings.weight
    # As large on average as the embeddings of the tokens, to which they are added.
    positions.copy_(sinusoids(*positions.shape) * (2**0.5 * model.config.initializer_range))
    layer = model.bert.encoder.layer[0].attention
    attention = layer.self
    for matrix in (attention.value.weight, layer.output.dense.weight):
        # Keeps the size of what is looked at, so that it is heard beside the residual from the beginning.
        torch.nn.init.normal_(matrix, std=model.config.hidden_size**-0.5)
    rows = attention.attention_head_size
    for head, offset in enumerate(OFFSETS[: attention.num_attention_heads]):
        chosen = slice(head * rows, (head + 1) * rows)
        query, key = looking_at(offset, rows, model.config.hidden_size)
        attention.query.weight[chosen] = query
        attention.key.weight[chosen] = key


@torch.no_grad()
def start_at_frequencies(model: BertForMaskedLM, tokens: NDArray[np.int64]) -> None:
    """Set the output bias of `model` to the logarithms of the frequencies of the ids `tokens`, shape (n,).

    Learning the frequencies through the embeddings instead would push all of these in one direction first.
    """
    counts = torch.bincount(torch.from_numpy(tokens), minlength=model.config.vocab_size)
    model.cls.predictions.bias.copy_(((counts + 0.5) / (counts + 0.5).sum()).log())
