"""Token streams of the corpus's parts, windows of them, and masks.

A stream is all documents of a part in order, each preceded by the family's boundary token
(`<|endoftext|>` or `[SEP]`), and one more boundary at the end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from .corpus import Corpus, Part
from .tokenisers import Family

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Streams:
    """Token ids of the three parts, each of shape (tokens,)."""

    train: Ids
    dev: Ids
    heldout: Ids


def boundary_id(family: Family, tokeniser: PreTrainedTokenizerBase) -> int:
    """Id of the token that separates documents."""
    token = tokeniser.eos_token_id if family == "gpt2" else tokeniser.sep_token_id
    assert isinstance(token, int)
    return token


def stream_of(texts: list[str], family: Family, tokeniser: PreTrainedTokenizerBase) -> Ids:
    """The stream of `texts`, shape (tokens,)."""
    boundary = boundary_id(family, tokeniser)
    ids = [boundary]
    for encoded in tokeniser(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        ids += [*encoded, boundary]
    return np.array(ids, dtype=np.int64)


def streams_of(corpus: Corpus, family: Family, tokeniser: PreTrainedTokenizerBase) -> Streams:
    """The streams of every part."""

    def part(name: Part) -> Ids:
        return stream_of(corpus.texts(name), family, tokeniser)

    return Streams(part("train"), part("dev"), part("heldout"))


def windows(stream: Ids, length: int) -> Ids:
    """Consecutive windows that do not overlap, (windows, length); what does not fill one is left out."""
    number = len(stream) // length
    return stream[: number * length].reshape(number, length)


def random_windows(stream: Ids, length: int, number: int, generator: np.random.Generator) -> Ids:
    """Windows starting anywhere, (number, length)."""
    starts = generator.integers(0, len(stream) - length + 1, size=number)
    return stream[starts[:, None] + np.arange(length)]


def wrapped(rows: Ids, start: int, end: int) -> Ids:
    """Each row between the tokens `start` and `end`: (rows, length + 2)."""
    column = np.ones((len(rows), 1), dtype=np.int64)
    return np.concatenate([start * column, rows, end * column], axis=1)


def masked(
    rows: Ids, tokeniser: PreTrainedTokenizerBase, generator: np.random.Generator, share: float = 0.15
) -> tuple[Ids, Ids]:
    """Inputs and labels for masked-language modelling, as in BERT (Devlin et al. 2019), each (rows, length).

    A `share` of the ordinary tokens is to be predicted: of those 80% become [MASK], 10% a random ordinary
    token and 10% stay.  Labels elsewhere are -100, which the loss leaves out.
    """
    specials = tokeniser.all_special_ids
    chosen = (generator.random(rows.shape) < share) & ~np.isin(rows, specials)
    how = generator.random(rows.shape)
    strangers = generator.integers(max(specials) + 1, len(tokeniser), size=rows.shape)
    inputs = np.where(chosen & (how < 0.8), tokeniser.mask_token_id, rows)
    inputs = np.where(chosen & (how >= 0.9), strangers, inputs)
    return inputs, np.where(chosen, rows, -100)
