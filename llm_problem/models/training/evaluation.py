"""Nats per token of a trained model and of its baseline on the same held-out tokens.

Nats per token is the mean negative natural logarithm of the probability given to the true token.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .baselines import KneserNeyBigram, NeighbourModel
from .tokenisers import Family
from .tokens import Ids, Streams, windows, wrapped

MASKS_PER_WINDOW = 8
MASK_SEED = 20240229
_BATCH = 64


@dataclass(frozen=True)
class Score:
    """Held-out nats per token of the model and of the baseline, over `tokens` tokens.

    `error` is the standard error of the mean difference between the two, in nats per token, taking tokens
    as independent.
    """

    model: float
    baseline: float
    error: float
    tokens: int

    @property
    def gain(self) -> float:
        """How many nats per token the model does better than the baseline."""
        return self.baseline - self.model

    @classmethod
    def of(cls, model: NDArray, baseline: NDArray) -> "Score":
        """From the nats of each token, two arrays of the same shape."""
        error = (baseline - model).std() / np.sqrt(model.size)
        return cls(float(model.mean()), float(baseline.mean()), float(error), model.size)


@dataclass(frozen=True)
class SingleMasks:
    """Sequences with one masked token each.

    `inputs` is (sequences, length) with [MASK] at `places` (sequences,); `left`, `targets` and `right` are
    the true tokens there and on both sides, each (sequences,).
    """

    inputs: Ids
    places: Ids
    left: Ids
    targets: Ids
    right: Ids


def causal_nats(model: PreTrainedModel, rows: Ids) -> NDArray[np.float64]:
    """Nats of every token but the first of each row: (rows, length - 1) from ids of shape (rows, length)."""
    found = []
    for logits, batch in _forward(model, rows):
        logs = torch.log_softmax(logits[:, :-1], dim=-1)
        found.append(-logs.gather(2, batch[:, 1:, None])[:, :, 0].numpy())
    return np.concatenate(found).astype(np.float64)


def masked_nats(model: PreTrainedModel, masks: SingleMasks) -> NDArray[np.float64]:
    """Nats of the masked token of each sequence, (sequences,)."""
    found = []
    for part, (logits, batch) in enumerate(_forward(model, masks.inputs)):
        chosen = slice(part * _BATCH, part * _BATCH + len(batch))
        rows = torch.arange(len(batch))
        logs = torch.log_softmax(logits[rows, torch.from_numpy(masks.places[chosen])], dim=-1)
        found.append(-logs[rows, torch.from_numpy(masks.targets[chosen])].numpy())
    return np.concatenate(found).astype(np.float64)


def whole(rows: Ids) -> dict[str, torch.Tensor]:
    """Model inputs for ids without padding, (rows, length).

    The mask is given because transformers warns of a missing one where the padding token, which is GPT-2's
    boundary token too, occurs in the text.
    """
    ids = torch.from_numpy(rows)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _forward(model: PreTrainedModel, rows: Ids) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (batch, length, vocabulary) and ids of each batch of `rows`, without dropout or gradients."""
    model.eval()
    for start in range(0, len(rows), _BATCH):
        batch = whole(rows[start : start + _BATCH])
        with torch.inference_mode():
            yield model(**batch).logits, batch["input_ids"]


def single_masks(
    stream: Ids, tokeniser: PreTrainedTokenizerBase, length: int, most_windows: int | None = None
) -> SingleMasks:
    """`MASKS_PER_WINDOW` sequences for each window of the stream, each with one ordinary token masked.

    Only one token of a sequence is masked, so that both neighbours are visible to the model as they are to
    the baseline.  The places are drawn with a fixed seed, never at the ends of a window.

    Parameters
    ----------
    stream
        Token ids, shape (tokens,).
    tokeniser
        Knows the special tokens.
    length
        Tokens of a sequence, [CLS] and [SEP] included.
    most_windows
        Take this many windows at most, evenly spaced.
    """
    special = tokeniser.all_special_ids
    generator = np.random.default_rng(MASK_SEED)
    rows = _thinned(windows(stream, length - 2), most_windows)
    ordinary = ~np.isin(rows, special)
    ordinary[:, [0, -1]] = False
    drawn = [generator.choice(np.nonzero(row)[0], MASKS_PER_WINDOW, replace=False) for row in ordinary]
    rows, flat = np.repeat(rows, MASKS_PER_WINDOW, axis=0), np.concatenate(drawn)
    index = np.arange(len(rows))
    inputs = wrapped(rows, tokeniser.cls_token_id, tokeniser.sep_token_id)
    inputs[index, flat + 1] = tokeniser.mask_token_id
    return SingleMasks(inputs, flat + 1, rows[index, flat - 1], rows[index, flat], rows[index, flat + 1])


def _thinned(rows: Ids, most: int | None) -> Ids:
    if most is None or most >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def score(
    family: Family,
    model: PreTrainedModel,
    tokeniser: PreTrainedTokenizerBase,
    streams: Streams,
    length: int,
    most_windows: int | None = None,
) -> Score:
    """Held-out nats per token of `model` and of its family's baseline.

    GPT-2 is given windows of `length` tokens and both predict every token of a window but the first, so
    that the model has between one and `length` - 1 tokens of context; for BERT see `single_masks`.
    `most_windows` limits the work, as there.
    """
    if family == "gpt2":
        rows = _thinned(windows(streams.heldout, length), most_windows)
        bigram = KneserNeyBigram.fit(streams.train, streams.dev, len(tokeniser))
        return Score.of(causal_nats(model, rows), bigram.nats(rows[:, :-1], rows[:, 1:]))
    masks = single_masks(streams.heldout, tokeniser, length, most_windows)
    neighbours = NeighbourModel.fit(streams.train, streams.dev, len(tokeniser))
    return Score.of(masked_nats(model, masks), neighbours.nats(masks.left, masks.targets, masks.right))
