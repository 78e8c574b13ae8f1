"""Whole stock layers on packed rows: for changes of whole tensors, and for layers whose form is not known.

Layers below the first moved one are answered from memory; the head runs only where something is read. Everything else
is the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from llm_problem.evaluation.packed_attention import PrefixInRow, attention_packed
from llm_problem.evaluation.packing import Row
from llm_problem.evaluation.prompted import embeddings_moved, moved_cache
from llm_problem.evaluation.reading import log_normaliser
from llm_problem.evaluation.where_read import head_of_words, last_layer_where_read
from llm_problem.models.families import FAMILIES
from llm_problem.models.loading import LoadedModel
from llm_problem.models.norms import tensors_after_layers
from llm_problem.models.prompts import prompt_cache
from llm_problem.models.targets import layer_number
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta, EmbeddingDelta, PrefixDelta, PromptChange


class StockEngine:
    """Reads rows from a model whose weights are those of the candidate. Hold the model's lock.

    Args:
        model: the model.
        subspace: what x moves.
    """

    def __init__(self, model: LoadedModel, subspace: BoundSubspace) -> None:
        self.model = model.model
        path = FAMILIES[self.model.config.model_type].layers
        self.stack = self.model.get_submodule(path)
        self.first = first_moved(model, subspace)
        # What the pretrained model keeps of a prompt, where a prefix is moved.
        prefixed = any(isinstance(delta, PrefixDelta) for delta in _prompt_changes(model, subspace))
        self._cache = prompt_cache(model, subspace.prompt) if prefixed else None
        self._takes_cache = model.takes("use_cache")
        # Newer causal models compute the logits of chosen positions only.
        self._keeps_logits = model.takes("logits_to_keep")

    def read(
        self,
        row: Row,
        kept: dict[str, torch.Tensor],
        deltas: Sequence[Delta],
        changed: Mapping[str, torch.Tensor] | None = None,
        *,
        contrast: bool = False,
    ) -> torch.Tensor:
        """Log-probabilities (e,) float64 of a row's entries, with `contrast` but for a constant at each place.

        Args:
            row: what to read.
            kept: the row's memory from call to call.
            deltas: of one candidate; its weights must be in the model already, or be `changed`.
            changed: tensors that stand in for the model's own, by name, for gradients to flow through.
            contrast: whether the entries of a place are only compared with each other; then the rest of the vocabulary
                is left out.
        """
        with attention_packed(self.model), last_layer_where_read(self.model, row.keep, row.tokens):
            if contrast:
                with head_of_words(self.model, row):
                    logits = self._run(row, kept, deltas, changed)  # (p, k)
                return logits[row.place_of_entry, row.word_of_entry].double()
            logits = self._run(row, kept, deltas, changed)  # (p, V)
        read = logits[row.place_of_entry, row.token].double()  # (e,)
        return read - log_normaliser(logits)[row.place_of_entry]

    def _run(
        self,
        row: Row,
        kept: dict[str, torch.Tensor],
        deltas: Sequence[Delta],
        changed: Mapping[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Logits (p, V) of a row at its kept places."""
        options: dict[str, Any] = {"use_cache": False} if self._takes_cache else {}
        with ExitStack() as hooks:
            for delta in deltas:
                if isinstance(delta, EmbeddingDelta):
                    offsets = delta.value[0, row.prompt_token]  # (m, hidden)
                    hooks.enter_context(embeddings_moved(self.model, row.prompt, offsets))
            if self._cache is not None:
                moved = moved_cache(self._cache, [d for d in deltas if isinstance(d, PrefixDelta)])
                options["prefix"] = PrefixInRow(row.prompt, moved)
            if "hidden" in kept:
                hooks.enter_context(answered(self.stack, self.first, kept["hidden"]))
            elif self.first:
                hooks.enter_context(watched(self.stack[self.first], lambda h: kept.update(hidden=h)))
            if self._keeps_logits:
                options["logits_to_keep"] = row.keep
            else:
                hooks.enter_context(_head_reads(self.model, row.keep))
            options |= {"input_ids": row.ids, "position_ids": row.positions, "packed": row.everywhere}
            if changed is None:
                output = self.model(**options)
            else:
                output = torch.func.functional_call(self.model, dict(changed), (), options)
        return output.logits[0]


def first_moved(model: LoadedModel, subspace: BoundSubspace) -> int:
    """Number of the first layer that gives other outputs for another x; the family must be one of `FAMILIES`."""
    path = FAMILIES[model.model.config.model_type].layers
    first = first_moved_layer(model.model, path, subspace.parameters)
    for delta in _prompt_changes(model, subspace):
        first = min(first, delta.layer if isinstance(delta, PrefixDelta) else 0)
    return first


def _prompt_changes(model: LoadedModel, subspace: BoundSubspace) -> list[PromptChange]:
    """The changes of a prompt at x = 0."""
    if not subspace.prompt:
        return []
    x0 = torch.zeros((1, subspace.dimension), dtype=torch.float64, device=model.model.device)
    return [delta for delta in subspace.deltas(x0) if isinstance(delta, PromptChange)]


def first_moved_layer(model: Any, path: str, parameters: tuple[str, ...]) -> int:
    """Number of the first layer, in the list at `path`, whose output any of the moved tensors changes.

    What is used after the layers only (the final norm) counts as the last of them, which is run in any case. Anything
    else outside the layers counts as the bottom: a tied head is the embeddings too.
    """
    first, after = len(model.get_submodule(path)) - 1, tensors_after_layers(model)
    for name in parameters:
        if name in after:
            continue
        if (number := layer_number(path, name)) is None:
            return 0
        first = min(first, number)
    return first


@contextmanager
def watched(layer: Any, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Hand the hidden states that enter a layer to `see`."""

    def hook(module: Any, args: tuple, kwargs: dict) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def answered(stack: Any, first: int, hidden: torch.Tensor) -> Iterator[None]:
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
