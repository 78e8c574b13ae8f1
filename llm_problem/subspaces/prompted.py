"""Subspaces that bring a prompt: its tokens are part of the basis, because they decide the model at x = 0."""

from __future__ import annotations

import torch

from llm_problem.subspaces.base import BoundSubspace


class PromptedSubspace(BoundSubspace):
    """`tokens` (p,), int64, are the prompt; a stored basis brings its own."""

    tokens: torch.Tensor

    @property
    def prompt(self) -> tuple[int, ...]:  # type: ignore[override]  # read from the tensor that a basis is loaded into
        return tuple(self.tokens.tolist())
