"""What a bound subspace does to a model, as named tensors that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import Delta, EmbeddingDelta, FactorDelta, LowRankDelta, PrefixDelta, WeightChange
from llm_problem.testing.promises import require

Changes = dict[str, torch.Tensor]
"""Name of a stored tensor, or of an offset to the prompt, → its change."""


def changes_of(bound: BoundSubspace, model: Any, X: Any) -> list[Changes]:
    """The changes of each of the candidates X (n, d), by the deltas' own `apply`; differentiable in X.

    Raises:
        BrokenPromiseError: deltas that are none, or for another number of candidates.
    """
    points = torch.as_tensor(X).to(model.device)
    deltas = bound.deltas(points)
    require(isinstance(deltas, list), "deltas(X) gives a list", type(deltas).__name__)
    named = dict(model.named_parameters())
    return [_one(deltas, named, i, len(points)) for i in range(len(points))]


def _one(deltas: Sequence[Delta], named: Mapping[str, torch.Tensor], i: int, n: int) -> Changes:
    changes: Changes = {}
    for delta in deltas:
        if isinstance(delta, WeightChange):
            name, rows = delta.parameter, len(_moved(delta))
            require(name in named, "deltas name stored tensors of the model", f"{name} is none")
            require(rows == n, "deltas have a row for each candidate", f"{name} has {rows} for {n}")
            before = changes.get(name)
            changes[name] = delta.apply(torch.zeros_like(named[name]) if before is None else before, i)
            continue
        for name, value in _offsets(delta).items():
            require(len(value) == n, "deltas have a row for each candidate", f"{name} has {len(value)} for {n}")
            changes[name] = changes[name] + value[i] if name in changes else value[i]
    return changes


def _moved(delta: WeightChange) -> torch.Tensor:
    """The part of a delta that has the candidate axis."""
    if isinstance(delta, LowRankDelta):
        return delta.core
    return delta.left if isinstance(delta, FactorDelta) else delta.value


def _offsets(delta: Delta) -> Changes:
    if isinstance(delta, EmbeddingDelta):
        return {"prompt embeddings": delta.value}
    require(isinstance(delta, PrefixDelta), "deltas(X) gives deltas", type(delta).__name__)
    assert isinstance(delta, PrefixDelta)
    return {f"prompt keys of layer {delta.layer}": delta.keys, f"prompt values of layer {delta.layer}": delta.values}


def distance(a: Changes, b: Changes) -> float:
    """‖a − b‖ over the larger of ‖a‖ and ‖b‖ (0 where both are zero), over all tensors; infinite for other names."""
    if set(a) != set(b) or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    size = max(_norm(list(a.values())), _norm(list(b.values())))
    return _norm([a[name].double() - b[name].double() for name in a]) / size if size else 0.0


def combined(a: float, x: Changes, b: float, y: Changes) -> Changes:
    """a x + b y in double precision."""
    return {name: a * x[name].double() + b * y[name].double() for name in x}


def size_of(changes: Changes) -> float:
    """Frobenius norm over all tensors."""
    return _norm(list(changes.values()))


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return sum(float(t.detach().double().square().sum()) for t in tensors) ** 0.5
