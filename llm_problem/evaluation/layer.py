"""One layer run piece by piece with the model's own norms and activations, for many candidates at once.

In the first layer that x moves, everything up to the first moved projection is computed once (`memo`). In the last
layer only the places that are read ask, and only they go through the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from llm_problem.evaluation.affine_attention import affine_attention
from llm_problem.evaluation.attention import AttentionGroups, Heads, attend
from llm_problem.evaluation.gemm import WeightStore
from llm_problem.evaluation.pieces import activation, norm, reordered
from llm_problem.evaluation.prefix import PutPrefix
from llm_problem.evaluation.projection import Numbered, Part, Projection, Started
from llm_problem.evaluation.rotary import head_order, turn
from llm_problem.models.families import FAMILIES
from llm_problem.models.prompts import KeysAndValues
from llm_problem.models.targets import layer_targets
from llm_problem.subspaces.deltas import Delta, PrefixDelta

T = TypeVar("T")
Memo = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Places:
    """Where the tokens that ask stand, and how their queries and keys are turned."""

    groups: AttentionGroups
    keep: torch.Tensor | None  # (p,) the tokens that ask, None where all do
    turn_queries: torch.Tensor | None  # (p, rotary size / 2) complex, None where the model has no rotary positions
    turn_keys: torch.Tensor | None  # (T, rotary size / 2) complex
    prompt: torch.Tensor  # (m,) where a prompt stands


class Layer:
    """A layer of a family whose form is known.

    Args:
        store: where packed weights are kept.
        model: the transformers model.
        index: the layer's number.
        deltas: those that move it, numbered.
        rotary: how many numbers of a head are turned by position, 0 where none are.
        last: whether it is the last one.
        rows: tokens of a row, for the choice of the matrix library.
        asking: how many of them ask in the last layer.
        precision: of the frozen products, None for that of the weights.
        cache: what the pretrained model keeps of a prompt in this layer, where that stands in for what is computed.

    Raises:
        KeyError, AttributeError: the model lacks a piece that its family should have.
    """

    def __init__(
        self,
        store: WeightStore,
        model: Any,
        index: int,
        deltas: Sequence[Numbered],
        *,
        rotary: int,
        last: bool,
        rows: int,
        asking: int,
        precision: torch.dtype | None,
        cache: KeysAndValues | None = None,
    ) -> None:
        config, family = model.config, FAMILIES[model.config.model_type]
        form = family.form
        assert form is not None
        targets, layer = layer_targets(model, index), model.get_submodule(f"{family.layers}.{index}")
        attention = layer.get_submodule(family.parts["q_proj"].module.rpartition(".")[0])
        self.last, self.residual = last, form.residual(config)
        self.heads = int(config.num_attention_heads)
        self.size = targets["q_proj"].shape[0] // self.heads
        self.shared = targets["k_proj"].shape[0] // self.size
        self.scale = float(attention.scaling)
        self.rotary = rotary if getattr(attention, "use_rope", True) else 0
        within = head_order(self.size, self.rotary)
        self.norms = [norm(layer.get_submodule(name)) for name in form.norms]
        self.query_norm = reordered(getattr(attention, "q_norm", None), within)
        self.key_norm = reordered(getattr(attention, "k_norm", None), within)
        self.activation = activation(layer.get_submodule(form.activation))

        def part(name: str, turned: bool = False) -> Part:
            rows_of = targets[name].rows
            stored = np.arange(targets[name].shape[0]) if rows_of is None else rows_of
            return Part(targets[name], stored.reshape(-1, self.size)[:, within].ravel() if turned else stored)

        def projection(parts: list[Part], rows: int) -> Projection:
            return Projection(store, model, parts, deltas, rows, precision)

        q, k, v = part("q_proj", turned=True), part("k_proj", turned=True), part("v_proj")
        after = asking if last else rows
        self.inputs = [projection([q], asking), projection([k, v], rows)] if last else [projection([q, k, v], rows)]
        self.output = projection([part("o_proj")], after)
        self.gate = projection([part("gate_proj")], after) if "gate_proj" in targets else None
        self.up = projection([part("up_proj")], after)
        self.down = projection([part("down_proj")], after)
        prefixes = [number for number, delta in deltas if isinstance(delta, PrefixDelta)]
        self.prefix = None if cache is None else PutPrefix(cache, within, prefixes, self.output.dtype)
        covered = {m.number for p in self.projections for m in p.moves}.union(prefixes)
        if missing := [number for number, _ in deltas if number not in covered]:
            raise KeyError(f"deltas {missing} move no projection of layer {index}")

    @property
    def projections(self) -> list[Projection]:
        return [p for p in (*self.inputs, self.output, self.gate, self.up, self.down) if p is not None]

    @property
    def moved(self) -> list[bool]:
        """Whether x moves attention's inputs (or a prefix beside them), its output, the MLP."""
        mlp = [p for p in (self.gate, self.up, self.down) if p is not None]
        inputs, output, last = (any(p.moves for p in group) for group in (self.inputs, [self.output], mlp))
        return [inputs or (self.prefix is not None and self.prefix.moved), output, last]

    def run(
        self, h: torch.Tensor, places: Places, changes: Sequence[Delta], width: int, memo: Memo | None = None
    ) -> torch.Tensor:
        """Hidden states after the layer.

        Args:
            h: (n, T, hidden) before it, n = 1 or the width.
            places: who asks, and where everyone stands.
            changes: the subspace's deltas for `width` candidates.
            width: how many candidates.
            memo: kept from call to call where h is the same in each; None where it is not.

        Returns:
            (1 or width, T or p, hidden), in memory of its own.
        """
        inputs_move, output_moves, mlp_moves = self.moved

        def once(name: str, fixed: bool, make: Callable[[], T]) -> T:
            if memo is None or not fixed:
                return make()
            if name not in memo:
                memo[name] = make()
            return memo[name]

        kept = memo is not None
        asking = once("asking", True, lambda: h if places.keep is None else h.index_select(1, places.keep))

        def attended() -> torch.Tensor:
            started = once("inputs", True, lambda: self._start(h, places))
            if memo is not None and inputs_move and self.prefix is None:
                short = once("affine", True, lambda: affine_attention(self, started, places))
                if short is not None:
                    return short(changes, width)
            return self._attend(started, places, changes, width, kept)

        def attention() -> torch.Tensor:
            started = once("output", not inputs_move, lambda: self.output.start(attended()))
            return self.output.finish(started, changes, width, kept=kept and not inputs_move)

        fixed = not (inputs_move or output_moves)
        if self.residual == "parallel":
            mlp = once("mlp", not mlp_moves, lambda: self._mlp(self.norms[1](asking), changes, width))
            return once("attention", fixed, attention) + mlp + asking
        middle = once("middle", fixed, lambda: _add(attention(), asking))
        if self.residual == "pre":
            return _add(self._mlp(once("normed", fixed, lambda: self.norms[1](middle)), changes, width), middle)
        normed = once("normed", fixed, lambda: self.norms[0](middle))
        return self.norms[1](self._mlp(normed, changes, width) + normed)

    def _start(self, h: torch.Tensor, places: Places) -> list[Started]:
        x = h if self.residual == "post" else self.norms[0](h)
        if len(self.inputs) == 1:
            return [self.inputs[0].start(x)]
        asking = x if places.keep is None else x.index_select(1, places.keep)
        return [self.inputs[0].start(asking), self.inputs[1].start(x)]

    def _attend(
        self, started: list[Started], places: Places, changes: Sequence[Delta], width: int, kept: bool
    ) -> torch.Tensor:
        # What is turned in place must not be what is kept.
        outputs = [p.finish(s, changes, width, kept=kept) for p, s in zip(self.inputs, started, strict=True)]
        if kept:
            outputs = [y.clone() if y is s.y else y for y, s in zip(outputs, started, strict=True)]
        q, k, v = self.split(outputs)
        q, k = self.turned(q, k, places)
        if self.prefix is not None:
            k, v = self.prefix.put(k, v, places.prompt, changes, width)
        return attend(places.groups, _heads(q), _heads(k), _heads(v), self.scale)

    def split(self, outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (n, p, heads, size), keys and values (n, T, shared heads, size) from the projections' outputs."""
        parts = [y[..., c] for y, p in zip(outputs, self.inputs, strict=True) for c in p.columns]
        q, k, v = (t.unflatten(-1, (-1, self.size)) for t in parts)
        return q, k, v

    def turned(self, q: torch.Tensor, k: torch.Tensor, places: Places) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys normed and turned by position, in place where the model does not norm them."""
        q = q if self.query_norm is None else self.query_norm(q)
        k = k if self.key_norm is None else self.key_norm(k)
        if self.rotary:
            assert places.turn_queries is not None and places.turn_keys is not None
            turn(q, places.turn_queries[:, None], self.rotary)
            turn(k, places.turn_keys[:, None], self.rotary)
        return q, k

    def _mlp(self, x: torch.Tensor, changes: Sequence[Delta], width: int) -> torch.Tensor:
        if self.gate is None:
            inner = self.activation(self.up(x, changes, width))
        else:
            inner = self.activation(self.gate(x, changes, width))
            up = self.up(x, changes, width)
            inner = inner.mul_(up) if len(inner) >= len(up) else inner * up
        return self.down(inner, changes, width)

    def gemms(self, rows: int, asking: int, *, first: bool) -> list[tuple[int, int, int, int]]:
        """The frozen products of one evaluation: (count, rows, inputs, outputs); `first`: what is kept is left out."""
        inputs_move, _, mlp_moves = self.moved
        after = asking if self.last else rows
        wanted = []
        if not first:
            wanted += [(p, asking if self.last and p is self.inputs[0] else rows) for p in self.inputs]
        if not first or inputs_move:
            wanted.append((self.output, after))
        if not first or mlp_moves or self.residual != "parallel":
            wanted += [(p, after) for p in (self.gate, self.up, self.down) if p is not None]
        return [(1, m, p.linear.inputs, p.linear.outputs) for p, m in wanted]


def _add(fresh: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Their sum, in the memory of the first where that is large enough."""
    return fresh.add_(other) if len(fresh) >= len(other) else fresh + other


def _heads(t: torch.Tensor) -> Heads:
    """Heads (n, rows, heads, size) as a part of the tensor that they are a view of."""
    n, rows, count, size = t.shape
    if t.stride(3) != 1 or t.stride(2) != size or t.stride(1) % size or t.storage_offset() % size:
        return Heads(t.contiguous(), 0, count)
    total = t.stride(1) // size if rows > 1 else count
    if n > 1 and t.stride(0) != rows * t.stride(1):
        return Heads(t.contiguous(), 0, count)
    first = t.storage_offset() // size % total
    whole = t.as_strided(
        (n, rows, total, size), (rows * total * size, total * size, size, 1), t.storage_offset() - first * size
    )
    return Heads(whole, first, count)
