"""What a subspace returns: for each weight that it moves, the change of that weight, for n candidates at once.

An evaluator may build the changed weight (`apply`), which is always right, or use the structure to be fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llm_problem.models.targets import Target


@dataclass(frozen=True, eq=False)
class LowRankDelta:
    """ΔW = left · core · right for one target weight W (out, in)."""

    target: Target
    left: torch.Tensor  # (out, r)
    core: torch.Tensor  # (n, r, r), the only part with a candidate axis
    right: torch.Tensor  # (r, in)

    @property
    def parameter(self) -> str:
        return self.target.parameter

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        return self.target.add(tensor, self.left @ self.core[i] @ self.right)


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """ΔW for one target weight W (out, in), entry by entry."""

    target: Target
    value: torch.Tensor  # (n, out, in)

    @property
    def parameter(self) -> str:
        return self.target.parameter

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        return self.target.add(tensor, self.value[i])


@dataclass(frozen=True, eq=False)
class DenseDelta:
    """Δθ for one stored tensor, entry by entry."""

    parameter: str
    value: torch.Tensor  # (n, *tensor.shape)

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        return tensor + self.value[i].to(tensor.dtype)


Delta = LowRankDelta | WeightDelta | DenseDelta
