"""Gradients on packed rows: what x cannot change is computed once here too.

Backpropagation runs through whole stock layers from the first moved one on, for the reference that uses gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakKeyDictionary

import torch

from llm_problem.evaluation.packing import Row
from llm_problem.evaluation.stock import StockEngine
from llm_problem.models.loading import LoadedModel
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.tasks.batch import TokenBatch


class GradientReader:
    """Log-probabilities that gradients flow through. Hold the model's lock.

    Args:
        model: the model.
        subspace: what x moves, tensors of the model and no prompt.
        pack: gives the rows of a batch; not in inference mode, which gradients cannot enter.
    """

    def __init__(self, model: LoadedModel, subspace: BoundSubspace, pack: Callable[[TokenBatch], list[Row]]) -> None:
        self._engine, self._pack = StockEngine(model, subspace), pack
        # Of each batch: its rows, and what each keeps.
        self._kept: WeakKeyDictionary[TokenBatch, list[tuple[Row, dict[str, torch.Tensor]]]] = WeakKeyDictionary()

    def log_probs(self, batch: TokenBatch, changed: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(E,) float64 of the batch's entries with `changed` tensors in place of the model's own; where they are only
        compared (`TokenBatch.contrast`), but for a constant at each place."""
        if batch not in self._kept:
            self._kept[batch] = [(row, {}) for row in self._pack(batch)]
        parts = [
            (row, self._engine.read(row, kept, (), changed, contrast=batch.contrast)) for row, kept in self._kept[batch]
        ]
        order = torch.cat([torch.as_tensor(row.entry) for row, _ in parts])
        values = torch.cat([found for _, found in parts])
        return values[torch.argsort(order).to(values.device)]
