"""The fast evaluator: what x cannot change is computed once and replayed.

Layers below the first one that x moves give the same hidden states for every x. They are computed once for a batch;
afterwards the stock forward runs with those layers answered from memory. Real tokens stand in one row without padding,
and the head runs only where something is read. Everything else is the model's own code, so a family needs no plan of
its own here, only the path of its layers (`models.families`) and the way it counts positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from llm_problem.evaluation.packed_attention import attention_packed
from llm_problem.evaluation.serial import SerialEvaluator
from llm_problem.models.families import FAMILIES
from llm_problem.models.loading import LoadedModel
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.tasks.batch import TokenBatch

TOKENS_PER_ROW = 4096  # a longer batch is cut into rows of about this many tokens, which bounds the memory


class NotReplayableError(ValueError):
    """This model has something that packing would get wrong; the message says what."""


@dataclass
class Row:
    """Some sequences of a batch, packed.

    `entry` picks their entries among the batch's; `row_of_entry` and `token` say what to read from the kept logits.
    """

    ids: torch.Tensor  # (1, T)
    positions: torch.Tensor  # (1, T), starting anew at each sequence
    bounds: tuple[int, ...]
    entry: np.ndarray  # (e,)
    keep: torch.Tensor  # (p,) places in the row where something is read
    row_of_entry: torch.Tensor  # (e,) into keep
    token: torch.Tensor  # (e,)
    prefix: torch.Tensor | None = None  # (1, T, hidden) input of the first moved layer; None where x moves more


class ReplayEvaluator(SerialEvaluator):
    """x → log-probabilities, one candidate at a time, all sequences of a batch at once, fixed layers from memory.

    Raises:
        NotReplayableError: a family or a setting that packed attention does not do exactly.
    """

    name = "replay"

    def __init__(self, model: LoadedModel, subspace: BoundSubspace) -> None:
        require_replayable(model)
        super().__init__(model, subspace)
        family = FAMILIES[model.model.config.model_type]
        self._stack = model.model.get_submodule(family.layers)
        self._first = first_moved_layer(family.layers, len(self._stack), subspace.parameters)
        self._offset = position_offset(model)
        # Newer causal models compute the logits of chosen positions only.
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.model.forward).parameters
        kept = (
            f"layers 0 to {self._first - 1} of {len(self._stack)} are computed once" if self._first else "all are run"
        )
        self.description = f"stock layers on packed sequences, {kept}"
        self._rows: WeakKeyDictionary[TokenBatch, list[Row]] = WeakKeyDictionary()
        self._fixed = [p for name, p in model.model.named_parameters() if name not in self._parameters]
        self._seen = self._versions()

    def _read(self, batch: TokenBatch, changed: Any = None) -> torch.Tensor:
        if changed is not None:
            return super()._read(batch, changed)  # gradients take the stock way
        values = torch.empty(batch.entries, dtype=torch.float64)
        with attention_packed(self.model.model):
            for row in self._rows_of(batch):
                logits = self._run(row)  # (p, V)
                read = logits[row.row_of_entry, row.token].double()  # (e,)
                values[row.entry] = (read - _log_normaliser(logits)[row.row_of_entry]).cpu()
        return values

    def _versions(self) -> list[tuple[int, int]]:
        """What differs after somebody else has written to the weights that x does not move."""
        return [(p.data_ptr(), p._version) for p in self._fixed]

    def _rows_of(self, batch: TokenBatch) -> list[Row]:
        if (versions := self._versions()) != self._seen:
            self._rows.clear()
            self._seen = versions
        if batch not in self._rows:
            self._rows[batch] = [self._pack(batch, chosen) for chosen in _cut(batch, TOKENS_PER_ROW)]
        return self._rows[batch]

    def _pack(self, batch: TokenBatch, chosen: range) -> Row:
        sequences = [batch.sequences[number] for number in chosen]
        bounds = np.concatenate([[0], np.cumsum([s.size for s in sequences])])
        positions = np.concatenate([np.arange(s.size) + self._offset for s in sequences])
        entry = np.flatnonzero((batch.sequence >= chosen.start) & (batch.sequence < chosen.stop))
        place = bounds[batch.sequence[entry] - chosen.start] + batch.position[entry]
        keep, row_of_entry = np.unique(place, return_inverse=True)
        device = next(self.model.model.parameters()).device
        return Row(
            ids=torch.as_tensor(np.concatenate(sequences), device=device)[None, :],
            positions=torch.as_tensor(positions, device=device)[None, :],
            bounds=tuple(bounds.tolist()),
            entry=entry,
            keep=torch.as_tensor(keep, device=device),
            row_of_entry=torch.as_tensor(row_of_entry, device=device),
            token=torch.as_tensor(batch.token[entry], device=device),
        )

    def _run(self, row: Row) -> torch.Tensor:
        """Logits (p, V) of a row at its kept places."""
        with ExitStack() as hooks:
            if row.prefix is not None:
                hooks.enter_context(_answered(self._stack, self._first, row.prefix))
            elif self._first:
                hooks.enter_context(_watched(self._stack[self._first], lambda hidden: setattr(row, "prefix", hidden)))
            options: dict[str, Any] = {"use_cache": False} if self._takes_cache else {}
            if self._keeps_logits:
                options["logits_to_keep"] = row.keep
            else:
                hooks.enter_context(_head_reads(self.model.model, row.keep))
            output = self.model.model(
                input_ids=row.ids, position_ids=row.positions, packed_bounds=row.bounds, **options
            )
        return output.logits[0]


def require_replayable(model: LoadedModel) -> None:
    """Refuse what packed attention would get wrong without a word.

    Raises:
        NotReplayableError: says what.
    """
    config = model.model.config
    if config.model_type not in FAMILIES:
        raise NotReplayableError(f"the family {config.model_type!r} has not been tried with packed sequences")
    if not model.model._can_set_attn_implementation():
        raise NotReplayableError("its attention cannot be replaced")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention"} or (window and getattr(config, "use_sliding_window", True)):
        raise NotReplayableError("it attends through a sliding window")
    if getattr(config, "attn_logit_softcapping", None):
        raise NotReplayableError("it caps its attention logits")
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in ("dynamic", "longrope"):
        raise NotReplayableError("its rotary frequencies depend on the longest sequence in a row")
    if getattr(config, "position_embedding_type", "absolute") not in (None, "absolute", "rotary"):
        raise NotReplayableError("it has relative positions")


def first_moved_layer(path: str, count: int, parameters: tuple[str, ...]) -> int:
    """Number of the first layer that any of the moved tensors belongs to; 0 where one is outside the layers.

    A tensor after the layers (final norm, head) moves nothing below it, but is told from the embeddings only by name,
    and tied heads are both: anything outside the layers counts as the bottom.
    """
    first = count - 1
    for name in parameters:
        inside, _, rest = name.partition(f"{path}.")
        if inside or not rest:
            return 0
        first = min(first, int(rest.split(".", 1)[0]))
    return first


def position_offset(model: LoadedModel) -> int:
    """The position of a sequence's first token as the model counts it."""
    config = model.model.config
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0


def _log_normaliser(logits: torch.Tensor) -> torch.Tensor:
    """log Σ exp(logits) (p,) float64 of logits (p, V).

    The largest is subtracted and the sum taken in float64, so that single precision is lost nowhere that counts.
    """
    largest = logits.float().amax(dim=-1, keepdim=True)  # (p, 1)
    total = (logits.float() - largest).exp_().sum(dim=-1, dtype=torch.float64)
    return largest[:, 0].double() + total.log()


def _cut(batch: TokenBatch, tokens: int) -> Iterator[range]:
    """Ranges of whole sequences of at most `tokens` tokens (or one sequence, where that is longer)."""
    start = total = 0
    for number, sequence in enumerate(batch.sequences):
        if number > start and total + sequence.size > tokens:
            yield range(start, number)
            start, total = number, 0
        total += sequence.size
    yield range(start, len(batch.sequences))


@contextmanager
def _watched(layer: Any, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Hand the hidden states that enter a layer to `see`."""

    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _answered(stack: Any, first: int, hidden: torch.Tensor) -> Iterator[None]:
    """The layers below `first` answer at once, so that `hidden` enters layer `first`."""
    layers = [stack[number] for number in range(first)]
    try:
        for layer in layers:
            # An instance attribute shadows the class's method; deleting it brings that back.
            layer.forward = lambda *args, **kwargs: hidden
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


@contextmanager
def _head_reads(model: Any, keep: torch.Tensor) -> Iterator[None]:
    """Let the head of a model without `logits_to_keep` see only the kept places."""
    head = model.get_output_embeddings()
    name = next(name for name, module in model.named_children() if any(m is head for m in module.modules()))

    def hook(module: Any, args: tuple) -> tuple:
        return (args[0][:, keep], *args[1:])

    handle = model.get_submodule(name).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
