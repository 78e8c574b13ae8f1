"""Neutral text, at which one sees how far a model has drifted: whole next-token distributions at a few places.

Windows stand evenly over the text. A causal model is read in the middle of each window and at its end, where it
predicts what follows; a masked model at masked tokens of each window; an encoder-decoder model reads a window as its
source and is read where it begins to write. Every token of the vocabulary is an entry at each place.
"""

from __future__ import annotations

import numpy as np

from llm_problem.models.loading import LoadedModel
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.tokens import affixes, encode_bare

WINDOW = 32  # tokens, or the model's context where that is less
WINDOWS = 8
PLACES = 2  # in a window; one where an encoder-decoder model begins to write
_STREAM = 0xD21F  # keeps the masks apart from other draws


def neutral_batch(model: LoadedModel, data: Data) -> TokenBatch:
    """The places of a neutral text, window by window; entry v of a place reads log p(token v), v = 0 … V − 1.

    Raises:
        ValueError: the text has too few tokens, cannot be read, or the model has no token to mask with.
    """
    prefix, suffix = ([], []) if model.kind == "causal" else affixes(model.tokenizer)
    if model.kind == "masked" and model.tokenizer.mask_token_id is None:
        raise ValueError(f"drift needs a mask token with a masked model, and the tokenizer of {model.name} has none")
    size = min(WINDOW, model.max_length) - len(prefix) - len(suffix)  # tokens of text in a window
    if size < PLACES:
        raise ValueError(f"the context of {model.name}, {model.max_length} tokens, is too short to read drift in")
    ids = np.asarray(encode_bare(model.tokenizer, _text(data)), dtype=np.int64)
    if len(ids) < WINDOWS * size:
        raise ValueError(
            f"the neutral text {data.label} has {len(ids)} tokens: drift is read in {WINDOWS} windows of {size}, so "
            f"at least {WINDOWS * size} are needed"
        )
    starts = np.arange(WINDOWS) * (len(ids) - size) // (WINDOWS - 1)
    windows = [ids[start : start + size] for start in starts.tolist()]
    if model.kind == "seq2seq":
        sources = tuple(np.array([*prefix, *window, *suffix], dtype=np.int64) for window in windows)
        begin = np.array([model.decoder_start], dtype=np.int64)
        return _whole_vocabulary(model, (begin,) * WINDOWS, np.zeros((WINDOWS, 1), dtype=np.int64), sources)
    if model.kind == "causal":
        places = np.tile((np.arange(PLACES) + 1) * size // PLACES - 1, (WINDOWS, 1))
        return _whole_vocabulary(model, tuple(windows), places)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, _STREAM])))  # the same masks in every problem
    masked = np.stack([np.sort(rng.choice(size, size=PLACES, replace=False)) for _ in windows])
    for window, where in zip(windows, masked, strict=True):
        window[where] = model.tokenizer.mask_token_id
    sequences = tuple(np.array([*prefix, *window, *suffix], dtype=np.int64) for window in windows)
    return _whole_vocabulary(model, sequences, masked + len(prefix))


def _whole_vocabulary(
    model: LoadedModel, sequences: tuple[np.ndarray, ...], places: np.ndarray, sources: tuple[np.ndarray, ...] = ()
) -> TokenBatch:
    """Every token at places (windows, p) of the sequences."""
    windows, p = places.shape
    return TokenBatch.whole_vocabulary(
        int(model.model.get_output_embeddings().weight.shape[0]),
        sequences,
        np.repeat(np.arange(windows), p),
        places.ravel(),
        sources,
        np.arange(len(sources)),
    )


def _text(data: Data) -> str:
    if data.records is None:
        return data.text()
    if len(data.records) != 1 or "text" not in dict(data.records[0]):
        raise ValueError("a neutral text is one text: a file, or a single record with the column 'text'")
    return dict(data.records[0])["text"]
