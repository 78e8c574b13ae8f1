"""The next token from logits: the likeliest or a drawn one, of those that the checkpoint allows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm_problem.generation.decoding import Decoding
from llm_problem.models.loading import LoadedModel

_STREAM = 0x6E47  # keeps the draws apart from others with the same seed


class Chooser:
    """Chooses the tokens of a few rows.

    Args:
        model: its generation settings say which tokens are never written, and which must be.
        decoding: greedy or drawn.
        prompts: token ids of the rows' prompts, which the draws follow from.
    """

    def __init__(self, model: LoadedModel, decoding: Decoding, prompts: Sequence[np.ndarray]) -> None:
        self._decoding, self._rules = decoding, Rules(model)
        # Drawn for each prompt ahead, so that it does not matter which rows are still there.
        self._draws = _uniforms(decoding, prompts) if decoding.temperature > 0 else None  # (rows, max_new_tokens)

    def choose(self, logits: torch.Tensor, rows: Sequence[int], step: int) -> torch.Tensor | None:
        """Tokens (m,) for logits (m, V) of the given rows at a step from 0; None where a logit is not a number."""
        if torch.isnan(logits).any():
            return None
        forced = self._rules.forced(step, self._decoding.max_new_tokens)
        if forced is not None:
            return torch.full((len(logits),), forced, dtype=torch.int64, device=logits.device)
        banned = self._rules.banned(step)
        if banned:
            logits = logits.index_fill(-1, torch.tensor(banned, device=logits.device), -torch.inf)
        if self._draws is None:
            return logits.argmax(dim=-1)
        u = torch.from_numpy(self._draws[list(rows), step]).to(logits.device)
        return drawn(logits, u, self._decoding.temperature, self._decoding.top_p)


def drawn(logits: torch.Tensor, u: torch.Tensor, temperature: float, top_p: float = 1.0) -> torch.Tensor:
    """Tokens (m,) at the quantiles u (m,) in [0, 1) of softmax(logits / temperature), logits (m, V)."""
    p = torch.softmax(logits.double() / temperature, dim=-1)  # (m, V)
    order = None
    if top_p < 1:
        p, order = p.sort(dim=-1, descending=True, stable=True)
        before = p.cumsum(dim=-1) - p
        p = torch.where(before < top_p, p, 0.0)  # the likeliest is always among them
    total = p.cumsum(dim=-1)
    # Of a sum that rounding left below u, the last token that has any probability.
    target = torch.minimum(u[:, None] * total[:, -1:], total[:, -1:] * (1 - 1e-12))
    place = torch.searchsorted(total, target, right=True)  # the first whose total is above
    return place[:, 0] if order is None else order.gather(1, place)[:, 0]


class Rules:
    """What a checkpoint's generation settings say of single tokens: some are never written, some must be.

    What looks back (penalties for repetition, n-grams that must not come twice) and searches of several beams are left
    aside: a text is what the model's own distribution gives.
    """

    def __init__(self, model: LoadedModel) -> None:
        settings = getattr(model.model, "generation_config", None)
        words = getattr(settings, "bad_words_ids", None) or []
        self._never = [int(word[0]) for word in words if len(word) == 1]
        self._never += [int(token) for token in getattr(settings, "suppress_tokens", None) or []]
        self._not_first = [int(token) for token in getattr(settings, "begin_suppress_tokens", None) or []]
        encoder_decoder = model.kind == "seq2seq"
        self._first = _one(getattr(settings, "forced_bos_token_id", None)) if encoder_decoder else None
        self._last = _one(getattr(settings, "forced_eos_token_id", None))

    def banned(self, step: int) -> list[int]:
        """Tokens that are not written at a step."""
        return self._never + self._not_first if step == 0 else self._never

    def forced(self, step: int, steps: int) -> int | None:
        """The one that is, if any, at a step of so many."""
        if step == 0 and self._first is not None:
            return self._first
        return self._last if step == steps - 1 else None


def end_tokens(model: LoadedModel) -> frozenset[int]:
    """The tokens that end a text, those of the checkpoint's generation settings; none where it names none."""
    for holder in (getattr(model.model, "generation_config", None), model.model.config):
        found = getattr(holder, "eos_token_id", None)
        if found is not None:
            return frozenset(int(token) for token in (found if isinstance(found, (list, tuple)) else [found]))
    return frozenset()


def _one(token: Any) -> int | None:
    return int(token[0] if isinstance(token, (list, tuple)) else token) if token is not None else None


def _uniforms(decoding: Decoding, prompts: Sequence[np.ndarray]) -> np.ndarray:
    """(rows, max_new_tokens) in [0, 1)."""
    found = np.empty((len(prompts), decoding.max_new_tokens))
    for row, ids in zip(found, prompts, strict=True):
        digest = hashlib.sha256(np.ascontiguousarray(ids, dtype="<i8").data).digest()
        key = [decoding.seed, *np.frombuffer(digest[:16], dtype="<u4").tolist(), _STREAM]
        row[:] = np.random.Generator(np.random.PCG64(np.random.SeedSequence(key))).random(len(row))
    return found
