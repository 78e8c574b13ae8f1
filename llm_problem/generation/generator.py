"""The texts that a candidate writes after the prompts of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch

from llm_problem.evaluation import SerialEvaluator
from llm_problem.evaluation.prompted import require_prompt
from llm_problem.evaluation.remembering import versions
from llm_problem.evaluation.stock import first_moved
from llm_problem.evaluation.threads import fitting_threads
from llm_problem.generation.causal import Beginning, CausalRows
from llm_problem.generation.choosing import Chooser
from llm_problem.generation.decoding import Decoding
from llm_problem.generation.encoder_decoder import EncoderDecoderRows
from llm_problem.generation.memory import Memory
from llm_problem.generation.stopping import Stopping
from llm_problem.generation.writing import Rows, write
from llm_problem.models.families import FAMILIES
from llm_problem.tasks.batch import TokenBatch

ROWS = 64  # texts that are written side by side
TOKENS = 16384  # of them and their prompts, with padding: their keys and values are in memory at once
MEMORY = 2**30  # bytes that are kept of prompts from one candidate to the next


@dataclass(frozen=True)
class Text:
    """What a model wrote: its tokens, the end token included, and what they say up to where a text ends."""

    tokens: tuple[int, ...]
    text: str


class TextGenerator:
    """x → texts, one candidate at a time.

    Texts are those that `model.generate` of transformers gives for one unpadded prompt at a time, but for ties: sums in
    another order differ by rounding, and where the two likeliest tokens are closer than that either may be written.

    Args:
        evaluator: puts a candidate's weights in place.
        memory: bytes that may be kept of prompts, None for `MEMORY`.

    Raises:
        ValueError: an encoder-only model, which writes no text.
    """

    def __init__(self, evaluator: SerialEvaluator, memory: int | None = None) -> None:
        model = self._model = evaluator.model
        if model.kind == "masked":
            raise ValueError(f"{model.name} is an encoder-only model, which writes no text")
        self._evaluator, self._limit = evaluator, MEMORY if memory is None else memory
        subspace = evaluator.subspace
        moved = set(subspace.parameters)
        named = dict(model.model.named_parameters())
        if model.kind == "seq2seq":
            ids = {id(named[name]) for name in moved}  # a decoder's embeddings may be the encoder's as well
            self._first = int(
                not subspace.prompt and not any(id(p) in ids for p in model.model.get_encoder().parameters())
            )
        else:
            self._first = first_moved(model, subspace) if model.model.config.model_type in FAMILIES else 0
        # Those that x moves change with every candidate.
        self._fixed = [parameter for name, parameter in named.items() if name not in moved]
        self._seen = versions(self._fixed)
        self._memories: WeakKeyDictionary[TokenBatch, Memory] = WeakKeyDictionary()

    def texts(self, x: np.ndarray, batch: TokenBatch, decoding: Decoding) -> list[Text] | None:
        """What the model at x (1, d) writes after each prompt of a batch; None where its logits are not numbers.

        Raises:
            ValueError: a prompt that does not start with the subspace's, or fills the model's context.
        """
        require_prompt(batch, self._evaluator.subspace.prompt)
        prompts = batch.prompts()
        limits = self._limits(prompts, decoding)
        stopping = Stopping(self._model, decoding)
        found: list[Text | None] = [None] * len(prompts)
        with (
            self._model.lock,
            torch.inference_mode(),
            fitting_threads(self._model.model),
            self._evaluator.weights_changed(x) as (offsets, cache),
        ):
            memory = self._memory(batch)  # nobody else's weights are in place now
            beginning = Beginning(len(self._evaluator.subspace.prompt), offsets, cache or ())
            for number, chosen in enumerate(_together(prompts, limits)):
                some = [prompts[k] for k in chosen]
                rows, logits = self._read(some, beginning, (memory, number))
                written = write(rows, logits, Chooser(self._model, decoding, some), stopping, limits[chosen])
                if written is None:
                    return None
                for k, tokens in zip(chosen, written, strict=True):
                    found[k] = Text(tuple(tokens), stopping.text(tokens))
        return found  # type: ignore[return-value]

    def _read(
        self, prompts: list[np.ndarray], beginning: Beginning, memory: tuple[Memory, int]
    ) -> tuple[Rows, torch.Tensor]:
        rows: EncoderDecoderRows | CausalRows
        if self._model.kind == "seq2seq":
            rows = EncoderDecoderRows(self._model, prompts, beginning.offsets, memory if self._first else None)
        else:
            rows = CausalRows(self._model, prompts, beginning, self._first, memory)
        return rows, rows.logits

    def _limits(self, prompts: list[np.ndarray], decoding: Decoding) -> np.ndarray:
        """(n,) tokens that may be written after each prompt."""
        context = self._model.max_length
        if self._model.kind == "seq2seq":
            return np.full(len(prompts), min(decoding.max_new_tokens, context))
        # The last token is written, not read.
        room = np.array([context - ids.size + 1 for ids in prompts])
        if (room < 1).any():
            row = int(room.argmin())
            raise ValueError(
                f"the prompt of example {row + 1} has {prompts[row].size} tokens, and the model's context is {context}"
            )
        return np.minimum(room, decoding.max_new_tokens)

    def _memory(self, batch: TokenBatch) -> Memory:
        if (now := versions(self._fixed)) != self._seen:
            self._memories.clear()
            self._seen = now
        if batch not in self._memories:
            self._memories[batch] = Memory(self._limit - sum(memory.bytes for memory in self._memories.values()))
        return self._memories[batch]


def _together(prompts: list[np.ndarray], limits: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of prompts that are answered side by side, the shortest first."""
    sizes = np.array([ids.size for ids in prompts]) + limits
    order = np.argsort(sizes, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        full = end - start == ROWS or end == len(order)
        if full or (end + 1 - start) * sizes[order[end]] > TOKENS:
            yield order[start:end]
            start = end
