"""The fast engine: layers whose form is known run piece by piece, for several candidates at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from llm_problem.evaluation.gemm import WeightStore, working_dtype
from llm_problem.evaluation.layer import Layer, Memo, Places
from llm_problem.evaluation.packed_attention import attention_packed
from llm_problem.evaluation.packing import Row
from llm_problem.evaluation.projection import Numbered, Started
from llm_problem.evaluation.prompted import embeddings_moved
from llm_problem.evaluation.reading import Reader
from llm_problem.evaluation.rotary import turns
from llm_problem.models.families import FAMILIES
from llm_problem.models.loading import LoadedModel
from llm_problem.models.norms import tensors_after_layers
from llm_problem.models.prompts import prompt_cache
from llm_problem.models.quiet import quiet_transformers
from llm_problem.models.targets import layer_number
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta, DenseDelta, EmbeddingDelta, PrefixDelta


class NotPlannedError(ValueError):
    """This problem needs whole stock layers; the message says why."""


class _Reached(Exception):
    """Ends a forward pass that has brought what was wanted of it."""


@dataclass(eq=False)
class Kept:
    """What one row keeps from call to call."""

    h: torch.Tensor  # (1, T, hidden) before the first moved layer
    everywhere: Places
    at_keep: Places
    memo: Memo = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return _size([self.h, self.memo])


class PlannedEngine:
    """Runs the layers from the first moved one on.

    Args:
        model: the model.
        subspace: what x moves.
        store: where packed weights are kept.
        row: a typical row, for the choice of the matrix libraries.
        precision: of the frozen products, None for that of the weights.

    Raises:
        NotPlannedError: something is moved that is no projection, bias or norm of a layer, nor the norm after them,
            or the family's form is not known.
    """

    def __init__(
        self,
        model: LoadedModel,
        subspace: BoundSubspace,
        store: WeightStore,
        row: Row,
        precision: torch.dtype | None = None,
    ) -> None:
        self.model, self.subspace = model, subspace
        family = FAMILIES[model.model.config.model_type]
        if family.form is None:
            raise NotPlannedError(f"the form of {model.model.config.model_type} layers is not known here")
        self._stack = model.model.get_submodule(family.layers)
        self.device = next(model.model.parameters()).device
        by_layer, after, self._embeddings = _by_layer(subspace, model.model, family.layers, self.device)
        count = len(self._stack)
        self.first = 0 if self._embeddings else min(by_layer, default=count - 1)
        rotary = self._rotary()
        prefixes = any(isinstance(delta, PrefixDelta) for deltas in by_layer.values() for _, delta in deltas)
        cache = prompt_cache(model, subspace.prompt) if prefixes else None
        try:
            self.layers = [
                Layer(
                    store,
                    model.model,
                    index,
                    by_layer.get(index, []),
                    rotary=rotary,
                    last=index == count - 1,
                    rows=row.tokens,
                    asking=len(row.keep),
                    precision=precision,
                    cache=None if cache is None else cache[index],
                )
                for index in range(self.first, count)
            ]
            self.reader = Reader(store, model.model, len(row.keep), precision, after)
        except (KeyError, AttributeError, ValueError) as error:
            raise NotPlannedError(f"it has a piece that is not known here: {error}") from error

    def prepare(self, row: Row) -> Kept:
        """Run the layers below the first moved one. Hold the model's lock."""
        with attention_packed(self.model.model):
            h, options = self._reach(input_ids=row.ids, position_ids=row.positions, packed=row.everywhere)
        h = h.to(working_dtype(h.dtype))
        turning = options.get("position_embeddings")
        by = None if turning is None else turns(*turning)
        asked = None if by is None else by.index_select(0, row.keep)
        return Kept(
            h,
            Places(row.everywhere, None, by, by, row.prompt),
            Places(row.at_keep, row.keep, asked, by, row.prompt),
        )

    def values(self, X: torch.Tensor, row: Row, kept: Kept, *, contrast: bool) -> torch.Tensor:
        """(n, e) float64: the entries of a row for candidates X (n, d)."""
        changes = self.subspace.deltas(X)
        h, memo = kept.h, kept.memo  # type: torch.Tensor, Memo | None
        if self._embeddings:
            h, memo = self._prompted(h, row, changes), None
        for layer in self.layers:
            places = kept.at_keep if layer.last else kept.everywhere
            h = layer.run(h, places, changes, len(X), memo)
            memo = None
        return self.reader.contrast(h, row, changes) if contrast else self.reader.log_probs(h, row, changes)

    def layer_gemms(self, rows: list[Row]) -> list[tuple[int, int, int, int]]:
        """The frozen matrix products of one evaluation but for the head: (count, rows, inputs, outputs)."""
        return [
            product
            for row in rows
            for number, layer in enumerate(self.layers)
            for product in layer.gemms(row.tokens, len(row.keep), first=number == 0 and not self._embeddings)
        ]

    def gemms(self, row: Row, *, contrast: bool) -> list[tuple[int, int, int, int]]:
        """The frozen matrix products of one evaluation: (count, rows, inputs, outputs)."""
        wanted = self.layer_gemms([row])
        if not contrast:
            wanted += [(1, len(row.keep), inputs, outputs) for inputs, outputs in self.reader.gemms]
        return wanted

    def _prompted(self, h: torch.Tensor, row: Row, changes: list[Delta]) -> torch.Tensor:
        """Hidden states (n, T, hidden) before layer 0 from those of the pretrained model, (1, T, hidden)."""
        found = [changes[number] for number in self._embeddings]
        offsets = sum(delta.value for delta in found if isinstance(delta, EmbeddingDelta))  # (n, p, hidden)
        assert isinstance(offsets, torch.Tensor)
        n, p, _ = offsets.shape
        every = torch.arange(p, device=self.device)
        front = row.prompt[:p]  # that of one sequence; all look alike
        # What stands between embeddings and layers (positions, norms, projections) is the model's own.
        with embeddings_moved(self.model.model, every, offsets):
            own, _ = self._reach(input_ids=row.ids[:, front].expand(n, -1), position_ids=row.positions[:, front])
        h = h.expand(n, -1, -1).clone()
        h[:, row.prompt] = own.to(h.dtype)[:, row.prompt_token]
        return h

    def _rotary(self) -> int:
        """How many numbers of a head the model turns by position."""
        with torch.inference_mode():
            _, options = self._reach(input_ids=torch.zeros((1, 2), dtype=torch.int64, device=self.device))
        turning = options.get("position_embeddings")
        return 0 if turning is None else int(turning[0].shape[-1])

    def _reach(self, **inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        """What the first moved layer is called with in a stock forward pass, which ends there."""
        seen: dict[str, Any] = {}

        def see(module: Any, args: tuple, options: dict[str, Any]) -> None:
            seen["h"] = args[0] if args else options["hidden_states"]
            seen["options"] = options
            raise _Reached

        handle = self._stack[self.first].register_forward_pre_hook(see, with_kwargs=True)
        try:
            with quiet_transformers():  # a first token that is the padding token too is no padding here
                self.model.model(**inputs, **({"use_cache": False} if self.model.takes("use_cache") else {}))
        except _Reached:
            pass
        finally:
            handle.remove()
        return seen["h"], seen["options"]


def _by_layer(
    subspace: BoundSubspace, model: Any, path: str, device: torch.device
) -> tuple[dict[int, list[Numbered]], list[Numbered], list[int]]:
    """Layer → its deltas, numbered as the subspace returns them; those of what stands after the layers; and the
    numbers of those of the embeddings."""
    found: dict[int, list[Numbered]] = {}
    after: list[Numbered] = []
    embeddings: list[int] = []
    behind = tensors_after_layers(model)
    deltas = subspace.deltas(torch.zeros((1, subspace.dimension), dtype=torch.float64, device=device))
    for number, delta in enumerate(deltas):
        if isinstance(delta, EmbeddingDelta):
            embeddings.append(number)
        elif isinstance(delta, PrefixDelta):
            found.setdefault(delta.layer, []).append((number, delta))
        elif isinstance(delta, DenseDelta) and delta.value.ndim > 2:
            raise NotPlannedError("x moves whole tensors")
        elif delta.parameter in behind:
            after.append((number, delta))
        elif (layer := layer_number(path, delta.parameter)) is None:
            raise NotPlannedError(f"x moves {delta.parameter}, which is in no layer")
        else:
            found.setdefault(layer, []).append((number, delta))
    return found, after, embeddings


def _size(value: Any) -> int:
    """Bytes of all tensors in what a row keeps."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Started):
        return value.nbytes
    if isinstance(value, dict):
        return _size(list(value.values()))
    if isinstance(value, (list, tuple)):
        return sum(_size(item) for item in value)
    return int(getattr(value, "nbytes", 0))
