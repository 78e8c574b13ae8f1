"""One layer run piece by piece with the model's own norms and activations, for many candidates at once.

In the first layer that x moves, everything up to the first moved projection is computed once (`memo`). In the last
layer only the places that are read ask, and only they go through the MLP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from llm_problem.evaluation.affine_attention import affine_attention
from llm_problem.evaluation.attention import AttentionGroups, Heads, attend
from llm_problem.evaluation.gemm import WeightStore
from llm_problem.evaluation.moved_norm import Norm
from llm_problem.evaluation.pieces import activation
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


class Moved(NamedTuple):
    """What x moves in a layer, directly or through what it reads."""

    read: bool  # what attention reads, its norm
    inputs: bool  # queries, keys or values, or a prefix beside them
    output: bool  # attention's output projection
    mlp_read: bool  # what the MLP reads, its norm
    mlp: bool


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
        path, attention_path = f"{family.layers}.{index}", family.parts["q_proj"].module.rpartition(".")[0]
        targets, layer = layer_targets(model, index), model.get_submodule(path)
        attention = layer.get_submodule(attention_path)
        self.last, self.residual = last, form.residual(config)
        self.heads = int(config.num_attention_heads)
        self.size = targets["q_proj"].shape[0] // self.heads
        self.shared = targets["k_proj"].shape[0] // self.size
        self.scale = float(attention.scaling)
        self.rotary = rotary if getattr(attention, "use_rope", True) else 0
        within = head_order(self.size, self.rotary)
        self.norms = [Norm(layer.get_submodule(name), f"{path}.{name}", deltas) for name in form.norms]
        self.query_norm, self.key_norm = (
            None if module is None else Norm(module, f"{path}.{attention_path}.{name}", deltas, within)
            for name in ("q_norm", "k_norm")
            for module in [getattr(attention, name, None)]
        )
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
        pieces: list[Projection | Norm] = [*self.projections, *self.norms, *self.head_norms]
        covered = set(prefixes).union(*(piece.numbers for piece in pieces))
        if missing := [getattr(delta, "parameter", "") for number, delta in deltas if number not in covered]:
            raise KeyError(f"{', '.join(missing)} is no projection, bias or norm that is run here")

    @property
    def projections(self) -> list[Projection]:
        return [p for p in (*self.inputs, self.output, self.gate, self.up, self.down) if p is not None]

    @property
    def head_norms(self) -> list[Norm]:
        """The norms of queries and keys, where there are any."""
        return [n for n in (self.query_norm, self.key_norm) if n is not None]

    @property
    def head_norms_move(self) -> bool:
        return any(n.numbers for n in self.head_norms)

    @property
    def moved(self) -> Moved:
        first, second = (bool(n.numbers) for n in self.norms)
        if self.residual == "post":  # there the first norm follows attention, and the second the MLP
            read, mlp_read = False, first
        else:
            read, mlp_read = first, second
        beside = self.prefix is not None and self.prefix.moved
        inputs = read or beside or self.head_norms_move or any(p.numbers for p in self.inputs)
        mlp = mlp_read or any(p.numbers for p in (self.gate, self.up, self.down) if p is not None)
        return Moved(read, inputs, bool(self.output.numbers), mlp_read, mlp)

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
            (1 or width, T or p, hidden), in memory of its own unless x moves nothing in it.
        """
        moved = self.moved

        def once(name: str, fixed: bool, make: Callable[[], T]) -> T:
            if memo is None or not fixed:
                return make()
            if name not in memo:
                memo[name] = make()
            return memo[name]

        kept = memo is not None
        asking = once("asking", True, lambda: h if places.keep is None else h.index_select(1, places.keep))

        def attended() -> torch.Tensor:
            started = once("inputs", not moved.read, lambda: self._start(h, places, changes))
            if memo is not None and moved.inputs and not moved.read and self.prefix is None:
                short = once("affine", True, lambda: affine_attention(self, started, places))
                if short is not None:
                    return short(changes, width)
            return self._attend(started, places, changes, width, kept and not moved.read)

        def attention() -> torch.Tensor:
            started = once("output", not moved.inputs, lambda: self.output.start(attended()))
            return self.output.finish(started, changes, width, kept=kept and not moved.inputs)

        fixed = not (moved.inputs or moved.output)
        if self.residual == "parallel":
            mlp = once("mlp", not moved.mlp, lambda: self._mlp(self.norms[1](asking, changes), changes, width))
            return once("attention", fixed, attention) + mlp + asking
        middle = once("middle", fixed, lambda: _add(attention(), asking))
        norm = self.norms[0 if self.residual == "post" else 1]
        normed = once("normed", fixed and not moved.mlp_read, lambda: norm(middle, changes))
        beside = normed if self.residual == "post" else middle
        after = once("after", fixed and not moved.mlp, lambda: _add(self._mlp(normed, changes, width), beside))
        return self.norms[1](after, changes) if self.residual == "post" else after

    def _start(self, h: torch.Tensor, places: Places, changes: Sequence[Delta]) -> list[Started]:
        x = h if self.residual == "post" else self.norms[0](h, changes)
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
        q, k = self.turned(q, k, places, changes)
        if self.prefix is not None:
            k, v = self.prefix.put(k, v, places.prompt, changes, width)
        return attend(places.groups, _heads(q), _heads(k), _heads(v), self.scale)

    def split(self, outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (n, p, heads, size), keys and values (n, T, shared heads, size) from the projections' outputs."""
        parts = [y[..., c] for y, p in zip(outputs, self.inputs, strict=True) for c in p.columns]
        q, k, v = (t.unflatten(-1, (-1, self.size)) for t in parts)
        return q, k, v

    def turned(
        self, q: torch.Tensor, k: torch.Tensor, places: Places, changes: Sequence[Delta] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries and keys normed and turned by position, in place where the model does not norm them."""
        q = q if self.query_norm is None else self.query_norm(q, changes)
        k = k if self.key_norm is None else self.key_norm(k, changes)
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
        moved = self.moved
        after = asking if self.last else rows
        wanted = []
        if not first or moved.read:
            wanted += [(p, asking if self.last and p is self.inputs[0] else rows) for p in self.inputs]
        if not first or moved.inputs or self.output.features.inputs:
            wanted.append((self.output, after))
        before = self.residual != "parallel" and (moved.inputs or moved.output)  # what the MLP reads follows attention
        if not first or moved.mlp or before:
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
