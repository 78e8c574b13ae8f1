"""Rows of an encoder-decoder model: sources are read in padded batches, then all targets are written side by side.

All targets start with the same token, so that their places agree; sources of different lengths are masked. Where x
does not move the encoder, what it makes of the sources is the same for every x: `Memory` keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm_problem.evaluation.padding import buckets, padded
from llm_problem.evaluation.prompted import embeddings_moved
from llm_problem.generation.memory import Memory
from llm_problem.models.loading import LoadedModel

TOKENS_AT_ONCE = 4096  # of sources that are read together, with their padding


class EncoderDecoderRows:
    """Sources that a model has read, and the texts that it writes about them.

    Args:
        model: with the weights of a candidate.
        sources: token ids, each (s,).
        offsets: (p, hidden) added to the embeddings of the first p tokens of each; None for none.
        memory: what is known of these sources, and the number of these sources in it; None where x moves the encoder.

    Attributes:
        logits: (n, V) of what comes first.
    """

    def __init__(
        self,
        model: LoadedModel,
        sources: Sequence[np.ndarray],
        offsets: torch.Tensor | None = None,
        memory: tuple[Memory, int] | None = None,
    ) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self._model, self._device = model.model, model.model.device
        kept, number = (None, 0) if memory is None else memory
        found = None if kept is None else kept.encoded.get(number)
        if found is None:
            found = self._encoded(sources, offsets)
            if kept is not None:
                kept.keep_encoded(number, found)
        self._sources = found  # (n, S, hidden)
        lengths = torch.tensor([ids.size for ids in sources], device=self._device)
        self._mask = (torch.arange(found.shape[1], device=self._device) < lengths[:, None]).long()  # (n, S)
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.logits = self.advance(torch.full((len(sources),), model.decoder_start, device=self._device))

    def _encoded(self, sources: Sequence[np.ndarray], offsets: torch.Tensor | None) -> torch.Tensor:
        """What the encoder makes of the sources, (n, S, hidden) with zeros where a source has ended."""
        lengths = np.array([ids.size for ids in sources])
        parts: list[tuple[np.ndarray, torch.Tensor]] = []
        for rows in buckets(lengths[:, None], TOKENS_AT_ONCE):
            ids, mask = (torch.from_numpy(a).to(self._device) for a in padded([sources[row] for row in rows]))
            parts.append((rows, self._encode(ids, mask, offsets)))
        first = parts[0][1]
        found = first.new_zeros(len(sources), int(lengths.max()), first.shape[2])
        for rows, hidden in parts:
            found[torch.from_numpy(rows).to(self._device), : hidden.shape[1]] = hidden
        return found

    def _encode(self, ids: torch.Tensor, mask: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
        options: dict[str, Any] = {} if mask.all() else {"attention_mask": mask}
        encoder = self._model.get_encoder()
        if offsets is None:
            return encoder(input_ids=ids, **options).last_hidden_state
        with embeddings_moved(self._model, torch.arange(len(offsets), device=self._device), offsets):
            return encoder(input_ids=ids, **options).last_hidden_state

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token (m,) of each row; logits (m, V) of what comes next."""
        from transformers.modeling_outputs import BaseModelOutput

        return self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._sources),
            attention_mask=self._mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self._cache,
            use_cache=True,
        ).logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows (k,) only."""
        self._cache.batch_select_indices(rows)
        self._sources, self._mask = self._sources[rows], self._mask[rows]
