"""The fast evaluator: what x cannot change is computed once and replayed.

Real tokens stand in one row without padding, common beginnings once (`packing`). Layers below the first one that x
moves give the same hidden states for every x: they run once. What remains runs piece by piece where the family's form
is known (`planned`), else through whole stock layers (`stock`).

A value never depends on the population that it was evaluated in: candidates run in chunks of a width that follows from
the problem's sizes, and a smaller chunk is used only where it was seen to give the same bits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import psutil
import torch

from llm_problem.evaluation.gemm import weight_store
from llm_problem.evaluation.gradients import GradientReader
from llm_problem.evaluation.packing import Row, cut, pack
from llm_problem.evaluation.planned import Kept, NotPlannedError, PlannedEngine
from llm_problem.evaluation.prompted import require_prompt
from llm_problem.evaluation.remembering import versions
from llm_problem.evaluation.serial import SerialEvaluator, padding_learns
from llm_problem.evaluation.stock import StockEngine
from llm_problem.models.families import FAMILIES
from llm_problem.models.loading import DTYPES, LoadedModel
from llm_problem.models.targets import stored_names
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.tasks.batch import TokenBatch

TOKENS_PER_ROW = 4096  # a longer batch is cut into rows of about this many tokens, which bounds the memory
# Candidates run together until their products are this much work: then the price of starting an operation no longer
# counts, and wider chunks only need more memory (`python -m llm_problem.benchmarks width`).
CHUNK_WORK = 4e9  # floating-point operations
CHUNK_BYTES = 8 << 20  # of the largest activation of a chunk: what is wider leaves the processor's cache
WIDEST = 64


class NotReplayableError(ValueError):
    """This model has something that packing would get wrong; the message says what."""


@dataclass(eq=False)
class Packed:
    """A batch as rows, with what each keeps, and the chunks that its candidates run in."""

    rows: list[Row]
    kept: list[Kept | dict[str, torch.Tensor] | None]
    width: int = 1
    sizes: tuple[int, ...] = (1,)  # of chunks that give the same bits, ascending; the width is the last
    recomputed: int = 0  # rows whose memory passed the limit
    bytes: int = 0


class ReplayEvaluator(SerialEvaluator):
    """x → log-probabilities (at places that a loss only compares: up to a constant, see `TokenBatch.contrast`).

    Args:
        model: the model.
        subspace: what x moves.
        batch: the one that will be asked for most, for the choice of the matrix libraries.
        memory: bytes that packed weights and kept activations may take, each; None: a quarter of what is free.
        precision: of the matrix products that are run for each candidate ("bfloat16"); None for the model's own.

    Raises:
        NotReplayableError: a family or a setting that packed attention does not do exactly.
    """

    name = "replay"

    def __init__(
        self,
        model: LoadedModel,
        subspace: BoundSubspace,
        batch: TokenBatch,
        memory: int | None = None,
        precision: str | None = None,
    ) -> None:
        require_replayable(model)
        super().__init__(model, subspace)
        self._limit = psutil.virtual_memory().available // 4 if memory is None else memory
        self._precision = None if precision is None else DTYPES[precision]
        family = FAMILIES[model.model.config.model_type]
        attention = model.model.get_submodule(f"{family.layers}.0.{family.parts['q_proj'].module}".rpartition(".")[0])
        self._causal = bool(getattr(attention, "is_causal", model.kind == "causal"))
        self._offset = position_offset(model)
        self._all = list(model.model.parameters())
        self._batches: WeakKeyDictionary[TokenBatch, Packed] = WeakKeyDictionary()
        require_prompt(batch, subspace.prompt)
        self._typical = self._pack(batch, next(cut(batch, TOKENS_PER_ROW)))
        with self.model.lock:
            self._start()

    def _start(self) -> None:
        self._seen = versions(self._all)
        self._batches.clear()
        self._gradients: GradientReader | None = None  # made when a gradient is asked for
        self.engine: PlannedEngine | StockEngine
        try:
            store = weight_store(self.model, self._limit)
            self.engine = PlannedEngine(self.model, self.subspace, store, self._typical, self._precision)
            self._why = ""
        except NotPlannedError as error:
            if self._precision is not None:
                raise NotReplayableError(f"other precisions need layers run piece by piece: {error}") from error
            self.engine, self._why = StockEngine(self.model, self.subspace), str(error)

    @property
    def planned(self) -> bool:
        return isinstance(self.engine, PlannedEngine)

    @property
    def description(self) -> str:  # type: ignore[override]
        """What is done, in one line."""
        first, count = self.engine.first, self.model.layers
        how = "layers run piece by piece" if self.planned else f"whole stock layers ({self._why})"
        kept = f"layers 0 to {first - 1} of {count} computed once" if first else f"all {count} layers run"
        products = "" if self._precision is None else f", products in {str(self._precision).removeprefix('torch.')}"
        return f"sequences packed without padding, {kept}, {how}{products}"

    def log_probs(self, X: np.ndarray, batch: TokenBatch) -> np.ndarray:
        with self.model.lock, torch.inference_mode():
            self._refresh()
            packed = self._packed(batch)
            values = np.empty((len(X), batch.entries))
            start = 0
            while start < len(X):
                size = _next_size(len(X) - start, packed.sizes)
                chunk = X[start : start + size]
                if len(chunk) < size:
                    chunk = np.concatenate([chunk, np.zeros((size - len(chunk), X.shape[1]))])
                values[start : start + size] = self._chunk(chunk, packed, batch)[: len(X) - start]
                start += size
            return values

    def one_by_one(self, X: np.ndarray, batch: TokenBatch) -> np.ndarray:
        """The same without chunks and without keeping anything."""
        with self.model.lock, torch.inference_mode():
            self._refresh()
            packed = self._new(batch)
            return np.concatenate([self._chunk(x[None], packed, batch) for x in X])

    def differentiable_log_probs(self, x: torch.Tensor, batch: TokenBatch) -> torch.Tensor:
        with self.model.lock, torch.enable_grad(), padding_learns(self.model.model):
            self._refresh()
            if self._gradients is None:
                self._gradients = GradientReader(self.model, self.subspace, lambda b: self._new(b).rows)
            deltas = self._deltas(x[None, :])
            return self._gradients.log_probs(batch, deltas, self._changed_parameters(deltas))

    def gemms(self, batch: TokenBatch) -> list[tuple[int, int, int, int]]:
        """The frozen matrix products of one evaluation of one candidate: (count, rows, inputs, outputs)."""
        if not isinstance(self.engine, PlannedEngine):
            return []
        with self.model.lock, torch.inference_mode():
            rows = self._packed(batch).rows
        counts: Counter[tuple[int, int, int]] = Counter()
        for row in rows:
            for count, *shape in self.engine.gemms(row, contrast=batch.contrast):
                counts[shape[0], shape[1], shape[2]] += count
        return [(count, *shape) for shape, count in counts.items()]

    def memory(self, batch: TokenBatch) -> dict[str, int]:
        """Bytes of packed weights (shared by all problems on the model) and of what the batch's rows keep."""
        with self.model.lock, torch.inference_mode():
            packed = self._packed(batch)
        store = weight_store(self.model, self._limit)
        return {
            "limit": self._limit,
            "packed_weights": store.nbytes,
            "weights_left_out": store.left_out,
            "kept_activations": sum(_nbytes(kept) for kept in packed.kept),
            "rows": len(packed.rows),
            "rows_recomputed": packed.recomputed,
            "candidates_at_once": packed.width,
        }

    def _refresh(self) -> None:
        if versions(self._all) != self._seen:
            self._start()

    def _packed(self, batch: TokenBatch) -> Packed:
        found = self._batches.get(batch)
        if found is None:
            found = self._new(batch)
            found.width = self._width(found, batch)
            found.sizes = self._same_bits(found, batch)
            while not found.sizes:  # places in a chunk differ: a narrower one
                found.width //= 2
                found.sizes = self._same_bits(found, batch)
            self._batches[batch] = found
        return found

    def _new(self, batch: TokenBatch) -> Packed:
        require_prompt(batch, self.subspace.prompt)
        rows = [self._pack(batch, chosen) for chosen in cut(batch, TOKENS_PER_ROW)]
        return Packed(rows, [None] * len(rows))

    def _pack(self, batch: TokenBatch, chosen: range) -> Row:
        device, prompt = next(iter(self._all)).device, len(self.subspace.prompt)
        return pack(batch, chosen, causal=self._causal, offset=self._offset, device=device, prompt=prompt)

    def _width(self, packed: Packed, batch: TokenBatch) -> int:
        """How many candidates run together: a power of two that follows from the sizes alone."""
        if not isinstance(self.engine, PlannedEngine):
            return 1
        products = [p for row in packed.rows for p in self.engine.gemms(row, contrast=batch.contrast)]
        work = sum(2.0 * count * m * k * n for count, m, k, n in products)
        largest = max((4 * m * n for _, m, _, n in self.engine.layer_gemms(packed.rows)), default=1)
        most = min(WIDEST, int(CHUNK_WORK / max(work, 1.0)), CHUNK_BYTES // largest)
        return 1 << (most.bit_length() - 1) if most > 1 else 1

    def _same_bits(self, packed: Packed, batch: TokenBatch) -> tuple[int, ...]:
        """Chunk sizes that give the same bits as the full width; every place in a chunk is tried.

        Matrix libraries choose their kernels by shape, so that agreement on random numbers to the last bit is
        agreement on all. Empty where two places of one chunk differ.
        """
        width = packed.width
        if width == 1:
            return (1,)
        X = np.random.Generator(np.random.PCG64(0)).standard_normal((width, self.subspace.dimension))
        expected = self._chunk(X, packed, batch)
        for shift in (1, width // 2):
            if not np.array_equal(self._chunk(np.roll(X, shift, axis=0), packed, batch), np.roll(expected, shift, 0)):
                return ()
        sizes = [width]
        size = width // 2
        while size:
            parts = [self._chunk(X[k : k + size], packed, batch) for k in range(0, width, size)]
            if np.array_equal(np.concatenate(parts), expected):
                sizes.append(size)
            size //= 2
        return tuple(sorted(sizes))

    def _chunk(self, X: np.ndarray, packed: Packed, batch: TokenBatch) -> np.ndarray:
        """(n, E) of n candidates at once."""
        values = np.empty((len(X), batch.entries))
        for number, row in enumerate(packed.rows):
            kept = packed.kept[number]
            if isinstance(self.engine, PlannedEngine):
                if not isinstance(kept, Kept):
                    kept = self.engine.prepare(row)
                points = torch.from_numpy(X).to(self.engine.device)
                found = self.engine.values(points, row, kept, contrast=batch.contrast)
            else:
                kept = kept if isinstance(kept, dict) else {}
                found = torch.empty((len(X), len(row.entry)), dtype=torch.float64)
                for i in range(len(X)):
                    deltas = self._deltas(torch.from_numpy(X[i : i + 1]))
                    with self._weights_changed(deltas):
                        found[i] = self.engine.read(row, kept, deltas, contrast=batch.contrast)
            values[:, row.entry] = found.cpu().numpy()
            if packed.kept[number] is None:
                self._keep(packed, number, kept)
        return values

    def _keep(self, packed: Packed, number: int, kept: Kept | dict[str, torch.Tensor]) -> None:
        """Remember what a row keeps, while that fits the limit."""
        size = _nbytes(kept)
        others = sum(other.bytes for other in self._batches.values() if other is not packed)
        if others + packed.bytes + size <= self._limit:
            packed.kept[number] = kept
            packed.bytes += size
        else:
            packed.recomputed = len(packed.rows) - sum(k is not None for k in packed.kept)


def require_replayable(model: LoadedModel) -> None:
    """Refuse what packed attention would get wrong without a word.

    Raises:
        NotReplayableError: says what.
    """
    config = model.model.config
    if config.model_type not in FAMILIES:
        raise NotReplayableError(f"the family {config.model_type!r} has not been tried with packed sequences")
    layers = f"{FAMILIES[config.model_type].layers}."
    own = [stored for name, stored in stored_names(model.model).items() if name.startswith(layers)]
    if len(set(own)) < len(own):
        raise NotReplayableError("its layers share weights")
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


def position_offset(model: LoadedModel) -> int:
    """The position of a sequence's first token as the model counts it."""
    config = model.model.config
    return config.pad_token_id + 1 if config.model_type == "roberta" else 0


def _next_size(left: int, sizes: tuple[int, ...]) -> int:
    """The largest chunk that `left` candidates fill, else the smallest that holds them."""
    return max((size for size in sizes if size <= left), default=sizes[0])


def _nbytes(kept: Any) -> int:
    if isinstance(kept, dict):
        return sum(t.numel() * t.element_size() for t in kept.values())
    return 0 if kept is None else kept.nbytes
