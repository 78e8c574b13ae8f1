"""The fast evaluator of encoder-decoder models: sources are read once where x moves only the decoder.

Then the encoder's output, the decoder's layers below the first moved one, and the keys and values of the cross
attention above it (most of the work where targets are short) are the same for every x: they are computed once for a
batch and answered from memory. What remains runs through the stock decoder in a few padded batches with masks; the head
runs only where something is read, and only for the label words where single ones compete. One candidate at a time, so
that a value cannot depend on its population.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn.functional import linear
from transformers.modeling_outputs import BaseModelOutput

from llm_problem.evaluation.padding import buckets, padded
from llm_problem.evaluation.prompted import require_prompt
from llm_problem.evaluation.reading import log_normaliser
from llm_problem.evaluation.remembering import Kept, forward_of, remembering, versions
from llm_problem.evaluation.replay import NotReplayableError
from llm_problem.evaluation.serial import SerialEvaluator
from llm_problem.models.families import ENCODER_DECODERS, Family, family_of
from llm_problem.models.loading import LoadedModel
from llm_problem.models.norms import tensors_after_layers
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.tasks.batch import TokenBatch

TOKENS_PER_GROUP = 2048  # of sources and targets with their padding
LOGITS_PER_GROUP = 2**26  # numbers: fewer tokens in a group where the vocabulary is large
CHEAP_SOURCES = 8  # tokens of a source whose keys and values are kept cost at most what one token of a target does
MEMORY = 2**30  # bytes that an evaluator keeps of its batches; groups beyond that are run in full each time


@dataclass(eq=False)
class Group:
    """Some sequences of a batch, padded on the right, with the sources that they read.

    `entry` picks their entries among the batch's; `place_of_entry` and `token` say what to read from the logits of the
    kept places. `memory` is what the encoder makes of the sources, `kept` what modules of the decoder return; both are
    None past the limit of memory, and the memory also where x moves the encoder.
    """

    ids: torch.Tensor  # (b, T)
    mask: torch.Tensor  # (b, T)
    sources: list[int]  # of the batch's, one for each row
    source_mask: torch.Tensor  # (b, S)
    entry: np.ndarray  # (e,)
    keep: torch.Tensor  # (p,) places among the b·T where something is read
    place_of_entry: torch.Tensor  # (e,) into keep
    token: torch.Tensor  # (e,)
    words: torch.Tensor | None  # (k,) the tokens that logits are needed for; None for all
    memory: torch.Tensor | None = None  # (b, S, hidden)
    kept: Kept | None = None


class EncoderDecoderEvaluator(SerialEvaluator):
    """x → log-probabilities of an encoder-decoder model, one candidate at a time.

    At places that a loss only compares they are up to a constant, see `TokenBatch.contrast`.

    Args:
        model: the model.
        subspace: what x moves.
        memory: bytes that may be kept of the batches, None for `MEMORY`.

    Raises:
        NotReplayableError: a family that has not been tried.
    """

    name = "replay"

    def __init__(self, model: LoadedModel, subspace: BoundSubspace, memory: int | None = None) -> None:
        self._memory = memory
        config = model.model.config
        if config.model_type not in ENCODER_DECODERS:
            raise NotReplayableError(f"the family {config.model_type!r} has not been tried with padded batches")
        super().__init__(model, subspace)
        self._encoder = model.model.get_encoder()
        moved = {id(parameter) for parameter in self._parameters.values()}
        # By identity, not by name: a decoder's embeddings may be the encoder's as well.
        encoder_moves = any(id(parameter) in moved for parameter in self._encoder.parameters())
        self._encoder_moves = encoder_moves or bool(subspace.prompt)  # the encoder reads the prompt
        family = family_of(model.model)
        self._answers = {} if self._encoder_moves else fixed_modules(model.model, family, moved)
        stack = model.model.get_submodule(family.layers)
        below = sum(layer in self._answers for layer in stack)
        cross = len(self._answers) - below
        self._cross_attention_is_kept = cross == 2 * (len(stack) - below)
        self.description = _description(self._encoder_moves, below, len(stack), cross, self._most)
        self._limit = min(TOKENS_PER_GROUP, LOGITS_PER_GROUP // model.model.get_output_embeddings().weight.shape[0])
        self._groups: WeakKeyDictionary[TokenBatch, list[Group]] = WeakKeyDictionary()
        # Those that x moves change with every candidate.
        self._fixed = [p for p in model.model.parameters() if id(p) not in moved]
        self._seen = versions(self._fixed)

    @property
    def _most(self) -> int:
        """Bytes that may be kept."""
        return MEMORY if self._memory is None else self._memory

    def _read(self, batch: TokenBatch, changed: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        if changed is not None:
            return super()._read(batch, changed)  # gradients take the stock way
        require_prompt(batch, self.subspace.prompt)
        values = torch.empty(batch.entries, dtype=torch.float64)
        groups = self._groups_of(batch)
        encoded = self._encoded_together(batch) if self._encoder_moves else {}
        for group in groups:
            memory = group.memory
            if memory is None:
                memory = _stacked(encoded, group.sources) if encoded else self._encoded_alone(batch, group, {})
            logits = self._decoded(group, memory)  # (p, V)
            picked = logits[group.place_of_entry, group.token].double()  # (e,)
            if not batch.contrast:
                picked -= log_normaliser(logits)[group.place_of_entry]
            values[group.entry] = picked.cpu()
        return values

    def _groups_of(self, batch: TokenBatch) -> list[Group]:
        if (now := versions(self._fixed)) != self._seen:
            self._groups.clear()
            self._seen = now
        if batch not in self._groups:
            sources = np.array([batch.sources[k].size for k in batch.source])
            if self._cross_attention_is_kept:
                sources = -(-sources // CHEAP_SOURCES)
            lengths = np.stack([sources, [sequence.size for sequence in batch.sequences]], axis=1)
            groups = [self._group(batch, chosen) for chosen in buckets(lengths, max(1, self._limit))]
            if not self._encoder_moves:
                self._fill(batch, groups)
            self._groups[batch] = groups
        return self._groups[batch]

    def _fill(self, batch: TokenBatch, groups: list[Group]) -> None:
        """Read every source once, as long as there is memory."""
        encoded: dict[int, torch.Tensor] = {}
        for end, group in enumerate(groups, start=1):
            group.memory, group.kept = self._encoded_alone(batch, group, encoded), {}
            if self._bytes() + sum(map(_size, groups[:end])) > self._most:
                group.memory = group.kept = None
                return

    def _bytes(self) -> int:
        """What is kept of all batches."""
        return sum(_size(group) for groups in self._groups.values() for group in groups)

    def _group(self, batch: TokenBatch, chosen: np.ndarray) -> Group:
        ids, mask = padded([batch.sequences[k] for k in chosen])
        sources = batch.source[chosen].tolist()
        _, source_mask = padded([batch.sources[k] for k in sources])
        row_of = np.full(len(batch.sequences), -1)
        row_of[chosen] = np.arange(len(chosen))
        entry = np.flatnonzero(row_of[batch.sequence] >= 0)
        place = row_of[batch.sequence[entry]] * ids.shape[1] + batch.position[entry]
        keep, place_of_entry = np.unique(place, return_inverse=True)
        return Group(
            ids=self._tensor(ids),
            mask=self._tensor(mask),
            sources=sources,
            source_mask=self._tensor(source_mask),
            entry=entry,
            keep=self._tensor(keep),
            place_of_entry=self._tensor(place_of_entry),
            token=self._tensor(batch.token[entry]),
            words=self._tensor(np.unique(batch.token[entry])) if batch.contrast else None,
        )

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, device=next(self.model.model.parameters()).device)

    def _encoded(self, ids: np.ndarray, mask: np.ndarray | None = None) -> torch.Tensor:
        """What the encoder makes of ids (b, s): (b, s, hidden)."""
        attention_mask = None if mask is None else self._tensor(mask)
        return self._encoder(input_ids=self._tensor(ids), attention_mask=attention_mask).last_hidden_state

    def _encoded_alone(self, batch: TokenBatch, group: Group, encoded: dict[int, torch.Tensor]) -> torch.Tensor:
        """The memory of a group (b, S, hidden), each source read without padding unless it is among `encoded`."""
        for k in group.sources:
            if k not in encoded:
                encoded[k] = self._encoded(batch.sources[k][None])[0]  # (s, hidden)
        return _stacked(encoded, group.sources)

    def _encoded_together(self, batch: TokenBatch) -> dict[int, torch.Tensor]:
        """What the encoder makes of every source (s, hidden), run in padded batches."""
        encoded: dict[int, torch.Tensor] = {}
        for chosen in buckets(np.array([[ids.size] for ids in batch.sources]), TOKENS_PER_GROUP):
            hidden = self._encoded(*padded([batch.sources[k] for k in chosen]))
            for row, k in enumerate(chosen.tolist()):
                encoded[k] = hidden[row, : batch.sources[k].size]
        return encoded

    def _decoded(self, group: Group, memory: torch.Tensor) -> torch.Tensor:
        """Logits (p, V) at the kept places of a group; 0 for tokens that are not needed."""
        model, before = self.model.model, len(group.kept or ())
        with ExitStack() as hooks:
            if group.kept is not None:
                hooks.enter_context(remembering(self._answers, group.kept))
            hooks.enter_context(_head_reads(model.get_output_embeddings(), group.keep, group.words))
            logits = model(
                encoder_outputs=BaseModelOutput(last_hidden_state=memory),
                attention_mask=group.source_mask,
                decoder_input_ids=group.ids,
                decoder_attention_mask=group.mask,
                use_cache=False,
            ).logits
        if len(group.kept or ()) > before and self._bytes() > self._most:
            group.memory = group.kept = None
        return logits[0]


def fixed_modules(model: Any, family: Family, moved: set[int]) -> dict[nn.Module, nn.Module]:
    """Modules of the decoder whose output is the same for every x, each → the module whose output it may answer with.

    Layers below the first moved one answer with what the last of them returns (hidden states, and in T5 the position
    biases that it hands on), so that this enters the first moved layer. Above it, the cross attention's key and value
    projections read nothing but the encoder's output.

    Args:
        model: its encoder must not be moved.
        family: of the model.
        moved: id of each parameter that x moves.
    """
    stack = model.get_submodule(family.layers)
    in_layer = [{id(p) for p in layer.parameters()} & moved for layer in stack]
    parameters = dict(model.named_parameters())
    after = {id(parameters[name]) for name in tensors_after_layers(model)} & moved
    # A moved tensor elsewhere outside the layers (embeddings, head) counts as below all of them.
    outside = len(set().union(after, *in_layer)) < len(moved)
    first = 0 if outside else next((number for number, inside in enumerate(in_layer) if inside), len(stack) - 1)
    answers: dict[nn.Module, nn.Module] = {stack[number]: stack[first - 1] for number in range(first)}
    for layer in stack[first:]:
        for name in ("cross_k_proj", "cross_v_proj"):
            projection = layer.get_submodule(family.parts[name].module)
            if not any(id(parameter) in moved for parameter in projection.parameters()):
                answers[projection] = projection
    return answers


def _description(encoder_moves: bool, below: int, layers: int, cross: int, most: int) -> str:
    how = "stock layers on padded sequences of similar lengths, "
    if encoder_moves:
        return how + "encoder and decoder are run"
    once = ["the encoder"]
    if below:
        once.append(f"decoder layers 0 to {below - 1} of {layers}")
    if cross:
        once.append(f"{cross} key and value projections of the cross attention")
    return f"{how}computed once and kept, up to {most / 2**30:g} GiB: {', '.join(once)}"


def _stacked(encoded: Mapping[int, torch.Tensor], sources: list[int]) -> torch.Tensor:
    """(b, S, hidden) of the sources' (s, hidden), with zeros on the right of each."""
    return nn.utils.rnn.pad_sequence([encoded[k] for k in sources], batch_first=True)


def _size(kept: Any) -> int:
    """Bytes of what a group keeps, or of the tensors in what modules returned."""
    if isinstance(kept, Group):
        return _size((kept.memory, kept.kept))
    if isinstance(kept, torch.Tensor):
        return kept.numel() * kept.element_size()
    return sum(map(_size, kept.values() if isinstance(kept, dict) else kept or ()))


@contextmanager
def _head_reads(head: Any, keep: torch.Tensor, words: torch.Tensor | None) -> Iterator[None]:
    """Let the head see, of hidden states (b, T, hidden), only the kept places, (1, p, hidden), and only some tokens."""

    def some(hidden: torch.Tensor) -> torch.Tensor:
        assert words is not None
        logits = linear(hidden, head.weight[words], None if head.bias is None else head.bias[words])  # (1, p, k)
        # In their places among zeros: a model may add a bias of the whole vocabulary (Marian).
        return logits.new_zeros(1, len(keep), len(head.weight)).index_copy_(2, words, logits)

    with ExitStack() as stack:
        if words is not None:
            stack.enter_context(forward_of(head, some))
        only_kept = head.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1)[None, keep], *args[1:]))
        stack.callback(only_kept.remove)
        yield
