"""Gradients on packed rows: what x cannot change is computed once here too.

Backpropagation runs through whole stock layers from the first moved one on, for the reference that uses gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch

from llm_problem.evaluation.packing import Row
from llm_problem.evaluation.stock import StockEngine
from llm_problem.models.loading import LoadedModel
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta
from llm_problem.tasks.batch import TokenBatch


class GradientReader:
    """Log-probabilities that gradients flow through. Hold the model's lock.

    Args:
        model: the model.
        subspace: what x moves.
        pack: gives the rows of a batch; not in inference mode, which gradients cannot enter.
    """

    def __init__(self, model: LoadedModel, subspace: BoundSubspace, pack: Callable[[TokenBatch], list[Row]]) -> None:
        self._engine, self._pack = StockEngine(model, subspace), pack
        # Of each batch: its rows, and what each keeps.
        self._kept: WeakKeyDictionary[TokenBatch, list[tuple[Row, dict[str, torch.Tensor]]]] = WeakKeyDictionary()

    def log_probs(
        self, batch: TokenBatch, deltas: Sequence[Delta], changed: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """(E,) float64 of the batch's entries; where they are only compared (`TokenBatch.contrast`), but for a constant
        at each place.

        Args:
            batch: what to read.
            deltas: of one candidate, of which those of a prompt are looked at.
            changed: tensors in place of the model's own.
        """
        if batch not in self._kept:
            self._kept[batch] = [(row, {}) for row in self._pack(batch)]
        rows = self._kept[batch]
        found = [self._engine.read(row, kept, deltas, changed, contrast=batch.contrast) for row, kept in rows]
        order = torch.cat([torch.as_tensor(row.entry) for row, _ in rows])
        values = torch.cat(found)
        return values[torch.argsort(order).to(values.device)]
