"""What a subspace returns: the changes that x makes to a model, for n candidates at once.

Changes of stored tensors (`WeightChange`) can always be applied by building the changed tensor (`apply`); an evaluator
may use their structure to be fast. Changes of what a prompt's tokens look like (`PromptChange`) leave every tensor
alone: they need a prompt, see `BoundSubspace.prompt`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from llm_problem.models.targets import Target


@dataclass(frozen=True, eq=False)
class SharedFactors:
    """VeRA's ΔW = diag(b) B diag(d) A, where all weights share B and A: what a low-rank change consists of.

    A weight takes the first columns of A and the first rows of B, or of those its own where it is some rows of a
    stored tensor. A vector that is None is all ones.
    """

    left: torch.Tensor  # B (largest number of outputs of a stored tensor, r)
    right: torch.Tensor  # A (r, largest number of inputs)
    outer: torch.Tensor | None = None  # b (n, out)
    inner: torch.Tensor | None = None  # d (n, r)


@dataclass(frozen=True, eq=False)
class LowRankDelta:
    """ΔW = left · core · right for one target weight W (out, in)."""

    target: Target
    left: torch.Tensor  # (out, r)
    core: torch.Tensor  # (n, r, r), or (n, r) for a diagonal one: the only part with a candidate axis
    right: torch.Tensor  # (r, in)
    shared: SharedFactors | None = None  # the same change once more, where its matrices are those of all weights

    @property
    def parameter(self) -> str:
        return self.target.parameter

    def factors(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out, r) and A (r, in) of candidate i: ΔW = B A."""
        core = self.core[i]
        return (self.left @ core if core.ndim == 2 else self.left * core), self.right

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        left, right = self.factors(i)
        return self.target.add(tensor, left @ right)


@dataclass(frozen=True, eq=False)
class FactorDelta:
    """ΔW = left · right for one target weight W (out, in), where x moves the whole left factor."""

    target: Target
    left: torch.Tensor  # (n, out, r)
    right: torch.Tensor  # (r, in)
    shared: SharedFactors | None = None  # the same change once more, where its matrices are those of all weights

    @property
    def parameter(self) -> str:
        return self.target.parameter

    def factors(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """B (out, r) and A (r, in) of candidate i: ΔW = B A."""
        return self.left[i], self.right

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        return self.target.add(tensor, self.left[i] @ self.right)


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
class ScaleDelta:
    """ΔW = diag(v) W0 (`side` "output") or W0 diag(v) ("input"), W0 (out, in) the pretrained weight.

    A bias of the same output is another tensor: its change is a `DenseDelta`.
    """

    target: Target
    pretrained: torch.Tensor  # W0 (out, in)
    value: torch.Tensor  # v (n, out) or (n, in)
    side: str

    @property
    def parameter(self) -> str:
        return self.target.parameter

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        v = self.value[i]
        return self.target.add(tensor, self.pretrained * (v[:, None] if self.side == "output" else v))


@dataclass(frozen=True, eq=False)
class DenseDelta:
    """Δθ for one stored tensor, entry by entry."""

    parameter: str
    value: torch.Tensor  # (n, *tensor.shape)

    def apply(self, tensor: torch.Tensor, i: int) -> torch.Tensor:
        """The stored tensor changed as candidate i wants it (a new tensor; `tensor` stays as it is)."""
        return tensor + self.value[i].to(tensor.dtype)


@dataclass(frozen=True, eq=False)
class EmbeddingDelta:
    """Offsets to the input embeddings of the prompt's p tokens."""

    value: torch.Tensor  # (n, p, hidden)


@dataclass(frozen=True, eq=False)
class PrefixDelta:
    """Offsets to the keys and values that layer `layer` keeps of the prompt's p tokens.

    The prompt's own hidden states are those of the pretrained model in every layer: what is moved is a cache, as a
    prefix is (Li & Liang 2021). Keys are meant as a cache holds them, normed and turned by position.
    """

    layer: int
    keys: torch.Tensor  # (n, shared heads, p, size)
    values: torch.Tensor  # (n, shared heads, p, size)


WeightChange = LowRankDelta | FactorDelta | WeightDelta | ScaleDelta | DenseDelta
PromptChange = EmbeddingDelta | PrefixDelta
Delta = WeightChange | PromptChange
