"""The reference evaluator: build each candidate's weights, run the stock forward on one unpadded sequence at a time.

Slow and obviously right: every faster evaluator is compared with it. The model's own tensors are never written to;
a candidate's weights take their place for the time of its evaluation. A moved prompt is added to what the input
embeddings return, or stands in the cache that the model is given (`prompted`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from llm_problem.evaluation.prompted import moved_cache, prompt_moved, require_prompt
from llm_problem.evaluation.threads import fitting_threads
from llm_problem.models.loading import LoadedModel
from llm_problem.models.prompts import KeysAndValues, prompt_cache
from llm_problem.models.quantised import is_quantised, plain
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta, EmbeddingDelta, PrefixDelta, WeightChange
from llm_problem.tasks.batch import TokenBatch


class SerialEvaluator:
    """x → log-probabilities, one candidate and one sequence at a time."""

    name = "serial"
    description = "the stock forward, one unpadded sequence at a time"

    def __init__(self, model: LoadedModel, subspace: BoundSubspace) -> None:
        self.model, self.subspace = model, subspace
        parameters = dict(model.model.named_parameters())
        self._parameters = {name: parameters[name] for name in subspace.parameters}
        self._quantised = {name for name, parameter in self._parameters.items() if is_quantised(parameter)}
        self._takes_cache = model.takes("use_cache")

    def log_probs(self, X: np.ndarray, batch: TokenBatch) -> np.ndarray:
        """Log-probabilities in nats of the batch's entries.

        Args:
            X: (n, d) float64, finite.
            batch: what to read.

        Returns:
            (n, E) float64; NaN or infinite where the model's own logits are.
        """
        values = np.empty((len(X), batch.entries))
        with fitting_threads(self.model.model):
            for i in range(len(X)):
                with torch.inference_mode(), self.changed(X[i : i + 1]):
                    values[i] = self._read(batch).cpu().numpy()
        return values

    def one_by_one(self, X: np.ndarray, batch: TokenBatch) -> np.ndarray:
        """The same; evaluators that run candidates together or keep things of a batch do without here."""
        return self.log_probs(X, batch)

    def memory(self, batch: TokenBatch) -> dict[str, int]:
        """Bytes of packed weights and of what is kept between evaluations of a batch: none."""
        return {"packed_weights": 0, "kept_activations": 0}

    def differentiable_log_probs(self, x: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        """The same for one candidate x (d,), as a tensor (E,) that gradients flow through to x."""
        with self.model.lock, torch.enable_grad(), padding_learns(self.model.model):
            deltas = self._deltas(x[None, :])
            with prompt_moved(self.model, deltas, self._cache(deltas)):
                return self._read(batch, self._changed_parameters(deltas))

    @contextmanager
    def changed(self, X: np.ndarray) -> Iterator[None]:
        """The model as the one candidate X (1, d) wants it; its own tensors come back whatever happens.

        Where x moves a prompt, what the model reads must start with it (`BoundSubspace.prompt`).
        """
        with self.model.lock:
            deltas = self._deltas(torch.from_numpy(X.copy()))  # torch takes no negative strides
            cache = self._cache(deltas)  # of the pretrained model, so before the weights are changed
            with self._weights_changed(deltas), prompt_moved(self.model, deltas, cache):
                yield

    @contextmanager
    def weights_changed(self, X: np.ndarray) -> Iterator[tuple[torch.Tensor | None, list[KeysAndValues] | None]]:
        """The same with what x does to a prompt left to the caller, for one who keeps a cache of his own.

        Yields:
            Offsets (p, hidden) to the embeddings of the prompt's tokens, and the keys and values that stand at its
            places, each (shared heads, p, size); None where x moves no such thing.
        """
        with self.model.lock:
            deltas = self._deltas(torch.from_numpy(X.copy()))  # torch takes no negative strides
            cache = self._cache(deltas)
            offsets = [delta.value[0] for delta in deltas if isinstance(delta, EmbeddingDelta)]
            prefixes = [delta for delta in deltas if isinstance(delta, PrefixDelta)]
            with self._weights_changed(deltas):
                yield (
                    torch.stack(offsets).sum(dim=0) if offsets else None,
                    None if cache is None else moved_cache(cache, prefixes),
                )

    @contextmanager
    def _weights_changed(self, deltas: Sequence[Delta]) -> Iterator[None]:
        """The model with the weights of one candidate. Hold the model's lock."""
        untouched = {name: parameter.data for name, parameter in self._parameters.items()}
        try:
            for name, tensor in self._changed_parameters(deltas).items():
                if name in self._quantised:  # numbers cannot be put into it, so they stand in for it
                    self._put(name, torch.nn.Parameter(tensor, requires_grad=False))
                else:
                    self._parameters[name].data = tensor
            yield
        finally:
            for name, tensor in untouched.items():
                if name in self._quantised:
                    self._put(name, self._parameters[name])
                else:
                    self._parameters[name].data = tensor

    def _put(self, name: str, parameter: torch.nn.Parameter) -> None:
        module, _, leaf = name.rpartition(".")
        self.model.model.get_submodule(module)._parameters[leaf] = parameter

    def _deltas(self, X: torch.Tensor) -> list[Delta]:
        return self.subspace.deltas(X.to(self.model.model.device))

    def _cache(self, deltas: Sequence[Delta]) -> list[KeysAndValues] | None:
        """What the pretrained model keeps of the prompt, where x moves that."""
        moved = any(isinstance(delta, PrefixDelta) for delta in deltas)
        return prompt_cache(self.model, self.subspace.prompt) if moved else None

    def _changed_parameters(self, deltas: Sequence[Delta]) -> dict[str, torch.Tensor]:
        changed: dict[str, torch.Tensor] = {}
        for delta in deltas:
            if not isinstance(delta, WeightChange):
                continue
            before = changed.get(delta.parameter)
            changed[delta.parameter] = delta.apply(
                plain(self._parameters[delta.parameter]) if before is None else before, 0
            )
        return changed

    def _read(self, batch: TokenBatch, changed: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Log-probabilities (E,) float64, sequence by sequence."""
        require_prompt(batch, self.subspace.prompt)
        device = next(self.model.model.parameters()).device
        bounds = np.searchsorted(batch.sequence, np.arange(len(batch.sequences) + 1))
        parts = []
        for number, ids in enumerate(batch.sequences):
            entries = slice(bounds[number], bounds[number + 1])
            positions, row = np.unique(batch.position[entries], return_inverse=True)
            keep = torch.as_tensor(positions, device=device)
            source = batch.sources[batch.source[number]] if batch.sources else None
            logits = self._forward(
                torch.as_tensor(ids, device=device)[None, :],
                keep,
                changed,
                None if source is None else torch.as_tensor(source, device=device)[None, :],
            )  # (p, V)
            log_p = torch.log_softmax(logits.double(), dim=-1)
            parts.append(log_p[torch.as_tensor(row), torch.as_tensor(batch.token[entries])])
        return torch.cat(parts)

    def _forward(
        self,
        ids: torch.Tensor,
        keep: torch.Tensor,
        changed: Mapping[str, torch.Tensor] | None,
        source: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits (p, V) at the positions `keep` of one sequence ids (1, t), for an encoder-decoder of source (1, s)."""
        options: dict[str, object] = {"use_cache": False} if self._takes_cache else {}
        options |= {"input_ids": ids} if source is None else {"input_ids": source, "decoder_input_ids": ids}
        # All positions, even where the model could compute some only: the last bits depend on how many there are.
        if changed is None:
            logits = self.model.model(**options).logits
        else:
            logits = torch.func.functional_call(self.model.model, dict(changed), (), options).logits
        return logits[0, keep]


@contextmanager
def padding_learns(model: nn.Module) -> Iterator[None]:
    """Gradients reach the padding token's embedding too, which torch leaves out: Marian's targets start with it."""
    # Not subclasses: some count positions from their padding index.
    embeddings = {m: m.padding_idx for m in model.modules() if type(m) is nn.Embedding}
    try:
        for module in embeddings:
            module.padding_idx = None
        yield
    finally:
        for module, index in embeddings.items():
            module.padding_idx = index
