"""A norm whose gain and bias x may move: w ∘ x̂ + b, with x̂ the same for every candidate that has the same input."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from llm_problem.evaluation.pieces import Function, in_working_precision, norm, reordered
from llm_problem.evaluation.projection import Numbered
from llm_problem.subspaces.deltas import Delta, DenseDelta


class Norm:
    """A norm of the model, for many candidates at once.

    Args:
        module: the norm.
        path: where it is in the model.
        deltas: those that may move it, numbered; others are left alone.
        order: in which its features stand in what it is applied to, None for its own.

    Raises:
        ValueError: it moves, and is something else than a gain and a bias after a norm without them.
    """

    def __init__(self, module: Any, path: str, deltas: Sequence[Numbered], order: np.ndarray | None = None) -> None:
        names = {f"{path}.{leaf}": leaf for leaf in ("weight", "bias")}
        self._moves = [
            (number, names[delta.parameter])
            for number, delta in deltas
            if isinstance(delta, DenseDelta) and delta.parameter in names
        ]
        self._order = None if order is None else torch.from_numpy(order)
        self._function: Function = norm(module) if order is None else reordered(module, order)
        if self._moves:
            module = in_working_precision(module)
            bias = getattr(module, "bias", None)
            self._gain = self._sorted(module.weight)
            self._bias = None if bias is None else self._sorted(bias)
            self._bare = norm(_without_gain(module))
            self._require_gain_and_bias(path)

    @property
    def numbers(self) -> set[int]:
        """Of the deltas that move it."""
        return {number for number, _ in self._moves}

    def __call__(self, x: torch.Tensor, changes: Sequence[Delta]) -> torch.Tensor:
        """(n, M, …, features) of x (n, M, …, features); where it moves, the first axis is that of the candidates."""
        if not self._moves:
            return self._function(x)
        y = self._bare(x) * self._moved("weight", self._gain, x, changes)
        if self._bias is None:
            return y
        bias = self._moved("bias", self._bias, x, changes)
        return y.add_(bias) if len(y) >= len(bias) else y + bias

    def _moved(self, leaf: str, tensor: torch.Tensor, x: torch.Tensor, changes: Sequence[Delta]) -> torch.Tensor:
        """The gain or the bias, (width or 1, 1, …, features) with as many axes as x."""
        for number, moved in self._moves:
            if moved == leaf:
                delta = changes[number]
                assert isinstance(delta, DenseDelta)
                tensor = tensor + self._sorted(delta.value).to(x.dtype)  # (width, features)
        return tensor.view(-1, *[1] * (x.ndim - 2), tensor.shape[-1])

    def _sorted(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.detach()
        return tensor if self._order is None else tensor[..., self._order.to(tensor.device)]

    def _require_gain_and_bias(self, path: str) -> None:
        x = torch.randn((3, len(self._gain)), generator=torch.Generator().manual_seed(0)).to(self._gain)
        with torch.inference_mode():
            found = self._bare(x) * self._gain + (0 if self._bias is None else self._bias)
            if not torch.allclose(found, self._function(x), rtol=1e-5, atol=1e-6):
                raise ValueError(f"{path} is not a gain and a bias after a norm without them")


def _without_gain(module: Any) -> Any:
    """A copy with a gain of 1 and a bias of 0."""
    bare = copy.deepcopy(module)
    bare.weight.data = torch.ones_like(bare.weight)
    if getattr(bare, "bias", None) is not None:
        bare.bias.data = torch.zeros_like(bare.bias)
    return bare
