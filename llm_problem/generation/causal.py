"""Rows of a decoder-only model: prompts are read in padded batches without a mask, then go on side by side.

What all prompts begin with is read once. The rest of each is padded on the right, where nothing that is read looks;
keys and values then move to stand end to end, so that one pass writes a token of every row, however long it is. Layers
below the first one that x moves give the same keys, values and hidden states of a prompt for every x: `Memory` keeps
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_problem.evaluation.padding import buckets, padded
from llm_problem.evaluation.prompted import embeddings_moved
from llm_problem.evaluation.stock import answered, watched
from llm_problem.generation.cache import ReadRows, plain_layers, side_by_side
from llm_problem.generation.memory import Memory
from llm_problem.models.families import family_of
from llm_problem.models.loading import LoadedModel
from llm_problem.models.prompts import KeysAndValues

TOKENS_AT_ONCE = 4096  # of prompts that are read together, with their padding
WORTH_SHARING = 8  # tokens that all prompts begin with: fewer are read with each


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a candidate makes of the tokens that its subspace puts before every prompt; nothing where it has none.

    `tokens` is their number. `offsets` (tokens, hidden) are added to their embeddings; `cache` holds the keys and
    values, each (shared heads, tokens, size), that stand in their places instead of what the model makes of them.
    """

    tokens: int = 0
    offsets: torch.Tensor | None = None
    cache: Sequence[KeysAndValues] = ()

    @contextmanager
    def moved(self, model: Any) -> Iterator[None]:
        """The embeddings of what is read from place 0 on are moved."""
        if self.offsets is None:
            yield
            return
        with embeddings_moved(model, torch.arange(self.tokens, device=self.offsets.device), self.offsets):
            yield


class CausalRows:
    """Prompts that a model has read, and the texts that it writes after them.

    Args:
        model: with the weights of a candidate.
        prompts: token ids, each (t,).
        beginning: what the candidate makes of the tokens that its subspace puts first.
        first: number of the first layer that x moves.
        memory: what is known of these prompts, and the number of these prompts in it; None to keep nothing.

    Attributes:
        logits: (n, V) of what comes next.

    Raises:
        ValueError: a model that keeps something else than keys and values.
    """

    def __init__(
        self,
        model: LoadedModel,
        prompts: Sequence[np.ndarray],
        beginning: Beginning,
        first: int = 0,
        memory: tuple[Memory, int] | None = None,
    ) -> None:
        self._loaded, self._model, self._device = model, model.model, model.model.device
        self._takes_positions = model.takes("position_ids")
        self._first, self._memory = first, memory if first else None
        self._stack: Any = self._model.get_submodule(family_of(self._model).layers) if first else None
        self._passes = 0
        past = [(keys[None], values[None]) for keys, values in beginning.cache]
        given = beginning.tokens if past else 0
        shared = _shared(prompts, beginning.tokens)
        if shared > given:
            with beginning.moved(self._model):
                past, _ = self._pass(
                    np.asarray(prompts[0][given:shared])[None], given, past, np.array([shared - given])
                )
        rest = [ids[shared:] for ids in prompts]
        sizes = np.array([ids.size for ids in rest])
        parts = []
        for rows in buckets(sizes[:, None], TOKENS_AT_ONCE):
            ids, _ = padded([rest[row] for row in rows])
            layers, logits = self._pass(ids, shared, past, sizes[rows])
            parts.append(ReadRows(rows, shared + sizes[rows], layers, logits))
        self._join(parts, shared + sizes)

    def _pass(
        self, ids: np.ndarray, begin: int, past: Sequence[KeysAndValues], sizes: np.ndarray
    ) -> tuple[list[KeysAndValues], torch.Tensor]:
        """Keys and values (b, …) of all tokens so far, and logits (b, V) after the last of each row's `sizes` (b,).

        ids (b, t) come after `begin` tokens that all rows share, whose keys and values (1, …) are `past`.
        """
        from transformers import DynamicCache

        count, length = ids.shape
        memory, number = (None, 0) if self._memory is None else self._memory
        key, self._passes = (number, self._passes), self._passes + 1
        known = None if memory is None else memory.passes.get(key)
        cache = DynamicCache([(k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1)) for k, v in past])
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if self._takes_positions:
            options["position_ids"] = torch.arange(begin, begin + length, device=self._device)[None]
        seen: list[torch.Tensor] = []
        with ExitStack() as hooks:
            hooks.enter_context(_head_reads_ends(self._model, torch.from_numpy(sizes - 1).to(self._device)))
            if known is not None:
                hooks.enter_context(answered(self._stack, self._first, known.hidden))
            elif memory is not None:
                hooks.enter_context(watched(self._stack[self._first], seen.append))
            logits = self._model(input_ids=torch.from_numpy(ids).to(self._device), **options).logits[:, 0]
        ran = 0 if known is None else self._first
        layers = plain_layers(self._loaded.name, cache.layers[ran:], begin + length)
        if known is not None:
            return known.layers + layers, logits
        if memory is not None:
            memory.keep(key, seen[0], layers[: self._first])
        return layers, logits

    def _join(self, parts: Sequence[ReadRows], lengths: np.ndarray) -> None:
        from transformers import DynamicCache

        back = np.argsort(np.concatenate([part.rows for part in parts]))
        self.logits = torch.cat([part.logits for part in parts])[torch.from_numpy(back).to(self._device)]
        self._cache = DynamicCache(side_by_side(parts))
        self._lengths = torch.from_numpy(lengths).to(self._device)
        longest = int(lengths.max())
        places = torch.arange(longest, device=self._device)
        self._mask = (places >= longest - self._lengths[:, None]).long()  # (n, longest)

    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read a token (m,) of each row; logits (m, V) of what comes next."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        options: dict[str, Any] = {"past_key_values": self._cache, "use_cache": True}
        if self._takes_positions:
            options["position_ids"] = self._lengths[:, None]
        if not self._mask.all():
            options["attention_mask"] = self._mask
        self._lengths = self._lengths + 1
        return self._model(input_ids=tokens[:, None], **options).logits[:, -1]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows (k,) only."""
        self._lengths, self._mask = self._lengths[rows], self._mask[rows]
        unused = int(self._mask.argmax(dim=1).min())  # places before the longest of them
        self._mask = self._mask[:, unused:]
        for layer in self._cache.layers:
            layer.keys, layer.values = layer.keys[rows][:, :, unused:], layer.values[rows][:, :, unused:]


def _shared(prompts: Sequence[np.ndarray], least: int) -> int:
    """How many tokens are read once for all, at least those of the subspace's own prompt.

    Raises:
        ValueError: these do not stand first everywhere, with something after them.
    """
    shortest = min(ids.size for ids in prompts) - 1  # something must remain for logits to come from
    table = np.stack([ids[: max(shortest, 0)] for ids in prompts])
    same = (table == table[0]).all(axis=0)
    count = int(same.argmin()) if not same.all() else same.size
    if count < least:
        raise ValueError("a prompt does not start with the subspace's prompt, or has nothing after it")
    return count if least or (len(prompts) > 1 and count >= WORTH_SHARING) else 0


@contextmanager
def _head_reads_ends(model: Any, places: torch.Tensor) -> Iterator[None]:
    """The head sees one place (b,) of each row only."""
    head = model.get_output_embeddings()
    name = next(name for name, module in model.named_children() if any(m is head for m in module.modules()))
    rows = torch.arange(len(places), device=places.device)

    def hook(module: Any, args: tuple) -> tuple:
        return (args[0][rows, places][:, None], *args[1:])

    handle = model.get_submodule(name).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
