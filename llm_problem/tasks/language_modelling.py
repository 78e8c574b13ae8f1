"""Language modelling on a running text: windows of tokens, loss in nats per token.

The text is cut into three contiguous parts, so that what is held out was never read, and each part into windows. A
causal model predicts every token of a window but the first from those before it; windows overlap by that one token.
A masked model predicts a fixed, seeded share of each window's tokens, which it sees masked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.statistics import Scored
from llm_problem.tasks.base import Task, check_sizes
from llm_problem.tasks.batch import BatchBuilder, TokenBatch
from llm_problem.tasks.data import Data
from llm_problem.tasks.rows import EmptySplit
from llm_problem.tasks.splits import SHARES, SPLITS, checked_shares, require_split
from llm_problem.tasks.tokens import affixes, encode_bare

MASKED_SHARE = 0.15  # of the tokens of a window, as BERT was trained (Devlin et al. 2019, arXiv:1810.04805)


@dataclass(frozen=True)
class LanguageModelling(Task):
    """Predict the tokens of a text.

    Args:
        data: a text file, or "embedded:prose".
        window: tokens that are read at once, at most the model's context.
        search_size, dev_size, test_size: how many windows at most, None is all; spread evenly over the part, or, for
            search and a seed other than 0, drawn from it.
        shares: the parts' shares of the text in characters: search, dev, test.
    """

    kind: ClassVar[str] = "language-modelling"
    unit: ClassVar[str] = "nats per token"
    headline: ClassVar[tuple[str, ...]] = ("loss", "perplexity")

    data: Data
    window: int = 64
    search_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    shares: tuple[float, float, float] = SHARES

    def __post_init__(self) -> None:
        check_sizes(self)
        object.__setattr__(self, "data", Data.of(self.data))
        if self.data.records is not None and (len(self.data.records) != 1 or "text" not in dict(self.data.records[0])):
            raise ValueError("language modelling reads one text: a file, or a single record with the column 'text'")
        if isinstance(self.window, bool) or not isinstance(self.window, (int, np.integer)) or self.window < 2:
            raise ValueError(f"window must be an integer of at least 2 tokens, got {self.window!r}")
        object.__setattr__(self, "window", int(self.window))
        object.__setattr__(self, "shares", checked_shares(self.shares))

    @classmethod
    def from_text(cls, path: str | os.PathLike[str], **options: Any) -> LanguageModelling:
        """From a UTF-8 text file; options as for the class."""
        return cls(Data.of(path), **options)._checked()

    @classmethod
    def from_string(cls, text: str, **options: Any) -> LanguageModelling:
        """From a text in memory; options as for the class."""
        return cls(Data.of([{"text": text}]), **options)._checked()

    def _checked(self) -> LanguageModelling:
        """Itself, if there is text for every split."""
        for split in SPLITS:
            self.text(split)
        return self

    def text(self, split: str) -> str:
        """The part of the text that is this split, cut between words.

        Raises:
            EmptySplit: there is nothing in it.
        """
        whole = dict(self.data.records[0])["text"] if self.data.records else self.data.text()
        first = _word_start(whole, int(len(whole) * self.shares[0]))
        second = _word_start(whole, int(len(whole) * (self.shares[0] + self.shares[1])))
        start, end = {"search": (0, first), "dev": (first, second), "test": (second, len(whole))}[require_split(split)]
        part = whole[start:end]
        if not part.strip():
            raise EmptySplit(f"the {split} part of {self.data.label} is empty: the text has {len(whole)} characters")
        return part

    def batch(self, model: LoadedModel, split: str, seed: int) -> TokenBatch:
        if model.kind == "seq2seq":
            raise ValueError(
                f"language modelling reads one running text, and {model.name} is an encoder-decoder model, which "
                "writes about a source: use a causal or masked model, or Classification, which works with this one"
            )
        if self.window > model.max_length:
            raise ValueError(f"window {self.window} is longer than the model's context of {model.max_length} tokens")
        ids = np.asarray(encode_bare(model.tokenizer, self.text(split)), dtype=np.int64)
        size = {"search": self.search_size, "dev": self.dev_size, "test": self.test_size}[split]
        builder = BatchBuilder()
        masked = model.kind == "masked"
        # A causal window predicts its tokens from the one before it on; a masked one brings its special tokens.
        step, overlap = (self._masked_step(model), 0) if masked else (self.window, 1)
        count = (len(ids) - overlap) // step
        if count < 1:
            raise EmptySplit(
                f"the {split} part of {self.data.label} has {len(ids)} tokens, less than one window of {self.window}"
            )
        for number in _spread(count, size, seed if split == "search" else 0).tolist():
            window = ids[number * step : number * step + step + overlap]
            builder.start_example(0)
            if masked:
                _write_masked(builder, model.tokenizer, window, number)
            else:
                _write_causal(builder, window)
        return builder.build()

    def _masked_step(self, model: LoadedModel) -> int:
        if model.tokenizer.mask_token_id is None:
            raise ValueError("this tokenizer has no mask token, which masked language modelling needs")
        prefix, suffix = affixes(model.tokenizer)
        if self.window <= len(prefix) + len(suffix):
            raise ValueError(f"window {self.window} has no room for text beside the special tokens")
        return self.window - len(prefix) - len(suffix)

    def loss(self, log_probs: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        return -log_probs.mean()

    def example_losses(self, log_probs: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        weights = np.bincount(batch.example, minlength=batch.examples).astype(np.float64)  # predicted tokens
        return -np.bincount(batch.example, log_probs, minlength=batch.examples) / weights, weights

    def scored(self, log_probs: np.ndarray, batch: TokenBatch) -> Scored:
        losses, weights = self.example_losses(log_probs, batch)

        def perplexity(windows: np.ndarray) -> dict[str, float]:
            with np.errstate(over="ignore"):
                return {"perplexity": float(np.exp(np.average(losses[windows], weights=weights[windows])))}

        return Scored({"loss": losses}, weights, perplexity)

    def scores(self, log_probs: np.ndarray, batch: TokenBatch) -> dict[str, float]:
        loss = float(-np.mean(log_probs))
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(loss))
        return {"loss": loss, "perplexity": perplexity, "tokens": float(batch.entries)}

    def summary(self) -> dict[str, Any]:
        return {
            "task": "language modelling",
            "data": self.data.label,
            "window": self.window,
            "loss": "nats per predicted token",
        }


def _word_start(text: str, index: int) -> int:
    """The first index at or after `index` that follows white space."""
    while 0 < index < len(text) and not text[index - 1].isspace():
        index += 1
    return index


def _spread(count: int, size: int | None, seed: int) -> np.ndarray:
    """Numbers of `size` windows of `count`, ascending: for seed 0 evenly spread, otherwise a draw of its own."""
    if size is None or size >= count:
        return np.arange(count)
    if seed == 0:
        return np.arange(size) * count // size
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, _WINDOWS])))
    return np.sort(rng.choice(count, size=size, replace=False))


def _write_causal(builder: BatchBuilder, window: np.ndarray) -> None:
    sequence = builder.add_sequence(window[:-1])
    for position, target in enumerate(window[1:].tolist()):
        builder.read(sequence, position, target, 0)


def _write_masked(builder: BatchBuilder, tokenizer: Any, window: np.ndarray, number: int) -> None:
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([number, _STREAM])))  # fixed masks, by window
    masked = np.sort(rng.choice(len(window), size=max(1, round(MASKED_SHARE * len(window))), replace=False))
    shown = window.copy()
    shown[masked] = tokenizer.mask_token_id
    prefix, suffix = affixes(tokenizer)
    sequence = builder.add_sequence([*prefix, *shown.tolist(), *suffix])
    for position in masked.tolist():
        builder.read(sequence, len(prefix) + position, int(window[position]), 0)


_STREAM = 0x3A5C  # keeps the masks apart from other draws with the same seed
_WINDOWS = 0x717D  # and the windows
