"""From hidden states at the places that are read to the log-probabilities of the entries.

The model's own final norm and head transform run at those places only. Where a loss compares tokens at the same place
only (`TokenBatch.contrast`), the head is the rows of those tokens; else the vocabulary goes by in blocks, and its
logits are never all in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import linear

from llm_problem.evaluation.gemm import FrozenLinear, WeightStore, working_dtype
from llm_problem.evaluation.moved_norm import Norm
from llm_problem.evaluation.packing import Row
from llm_problem.evaluation.pieces import in_working_precision
from llm_problem.evaluation.projection import Numbered
from llm_problem.models.families import FAMILIES
from llm_problem.models.norms import is_norm
from llm_problem.models.quantised import plain
from llm_problem.subspaces.deltas import Delta

BLOCK = 4096  # tokens of the vocabulary at once
LOGITS = 4_194_304  # at most this many logits at once (16 MiB in single precision)


class Reader:
    """The end of a model whose family has a form.

    Args:
        store: where packed weights are kept.
        model: the transformers model.
        rows: how many places are read at once, for the choice of the matrix library.
        precision: of the products with the vocabulary, None for that of the weights.
        deltas: those that move norms before the head, numbered.

    Raises:
        KeyError, ValueError: a delta that moves something else there.
    """

    def __init__(
        self, store: WeightStore, model: Any, rows: int, precision: torch.dtype | None, deltas: Sequence[Numbered] = ()
    ) -> None:
        form = FAMILIES[model.config.model_type].form
        assert form is not None
        self._tail = [_piece(model, piece, deltas) for piece in form.tail]
        covered = set().union(*(piece.numbers for piece in self._tail if isinstance(piece, Norm)))
        if missing := [getattr(delta, "parameter", "") for number, delta in deltas if number not in covered]:
            raise KeyError(f"{', '.join(missing)} is no norm that is run here")
        head = model.get_output_embeddings()
        self._weight, self._bias = plain(head.weight), None if head.bias is None else head.bias.detach()
        self._store, self._rows, self._precision = store, rows, precision
        self._blocks: list[FrozenLinear] | None = None

    def contrast(self, h: torch.Tensor, row: Row, changes: Sequence[Delta] = ()) -> torch.Tensor:
        """Logits (n, e) float64 of the entries, for hidden states h (n, p, hidden): log-probabilities but for a
        constant at each place. Where the final norm moves, n is that of the `changes`."""
        bias = None if self._bias is None else self._bias[row.words].to(h.dtype)
        logits = linear(self._end(h, changes), self._weight[row.words].to(h.dtype), bias)  # (n, p, k)
        return logits[:, row.place_of_entry, row.word_of_entry].double()

    def log_probs(self, h: torch.Tensor, row: Row, changes: Sequence[Delta] = ()) -> torch.Tensor:
        """Log-probabilities (n, e) float64 of the entries, for hidden states and `changes` as in `contrast`."""
        h = self._end(h, changes)
        n, p, _ = h.shape
        flat = h.reshape(n * p, -1)
        entry_row = (torch.arange(n, device=h.device)[:, None] * p + row.place_of_entry).ravel()  # (n · e,)
        entry_token = row.token.expand(n, -1).reshape(-1)
        found = torch.empty(len(entry_row), dtype=torch.float64, device=h.device)
        at_once = max(1, LOGITS // BLOCK)
        for start in range(0, n * p, at_once):
            mine = (entry_row >= start) & (entry_row < start + at_once)
            found[mine] = self._some(flat[start : start + at_once], entry_row[mine] - start, entry_token[mine])
        return found.view(n, -1)

    @property
    def gemms(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the blocks of the vocabulary."""
        hidden, vocabulary = self._weight.shape[1], self._weight.shape[0]
        return [(hidden, min(BLOCK, vocabulary - start)) for start in range(0, vocabulary, BLOCK)]

    def _end(self, h: torch.Tensor, changes: Sequence[Delta]) -> torch.Tensor:
        for piece in self._tail:
            h = piece(h, changes) if isinstance(piece, Norm) else piece(h)
        return h

    def _some(self, h: torch.Tensor, rows: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (e,) of the tokens at the rows of h (m, hidden)."""
        block_of = torch.div(tokens, BLOCK, rounding_mode="floor")  # (e,)
        picked = torch.empty(len(rows), dtype=torch.float64, device=h.device)
        largest = torch.full((len(h), 1), -torch.inf, device=h.device, dtype=h.dtype)
        total = torch.zeros((len(h), 1), dtype=torch.float64, device=h.device)
        for number, block in enumerate(self._vocabulary()):
            logits = block(h)  # (m, BLOCK)
            mine = torch.nonzero(block_of == number)[:, 0]
            picked[mine] = logits[rows[mine], tokens[mine] - number * BLOCK].double()
            higher = torch.maximum(largest, logits.amax(dim=-1, keepdim=True))
            # Σ exp(l − m), with m the largest so far: what was summed before is brought down to it.
            total *= (largest - higher).double().exp()
            total += logits.sub_(higher).exp_().sum(dim=-1, keepdim=True)
            largest = higher
        normaliser = (largest.double() + total.log())[:, 0]
        return picked - normaliser[rows]

    def _vocabulary(self) -> list[FrozenLinear]:
        if self._blocks is None:
            self._blocks = [self._block(start) for start in range(0, len(self._weight), BLOCK)]
        return self._blocks

    def _block(self, start: int) -> FrozenLinear:
        weight, bias = self._weight, self._bias
        key = ("head", start, weight.data_ptr(), weight._version, weight.dtype)

        def build() -> tuple[torch.Tensor, torch.Tensor | None]:
            return weight[start : start + BLOCK], None if bias is None else bias[start : start + BLOCK]

        shape = min(BLOCK, len(weight) - start), weight.shape[1]
        return self._store.get(key, shape, weight, build, self._rows, self._precision)


def log_normaliser(logits: torch.Tensor) -> torch.Tensor:
    """log Σ exp(logits) (p,) float64 of logits (p, V).

    The largest is subtracted and the sum taken in float64, so that single precision is lost nowhere that counts.
    """
    logits = logits.to(working_dtype(logits.dtype))
    largest = logits.amax(dim=-1, keepdim=True)  # (p, 1)
    total = (logits - largest).exp_().sum(dim=-1, dtype=torch.float64)
    return largest[:, 0].double() + total.log()


def _piece(
    model: Any, piece: str | Callable[[Any], Any], deltas: Sequence[Numbered]
) -> Norm | Callable[[torch.Tensor], torch.Tensor]:
    """A part of the tail as a function; one that this model does without changes nothing."""
    if not isinstance(piece, str):
        return piece
    parent, _, name = piece.rpartition(".")
    module = getattr(model.get_submodule(parent), name)
    if module is None:
        return lambda h: h
    return Norm(module, piece, deltas) if is_norm(module) else in_working_precision(module)
