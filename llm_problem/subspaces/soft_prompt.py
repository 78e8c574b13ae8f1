"""Soft prompt, by Black-Box Tuning (Sun, Shao, Qian, Huang & Qiu 2022, arXiv:2201.03078).

The model reads a prompt in front of every text, and x moves what the prompt's tokens look like to it:
E = E0 + P x with E0 (p, hidden) the embeddings of a real text's tokens and P a frozen Gaussian projection. At x = 0 the
model is the pretrained one, prompted with that text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.prompts import prompt_embeddings, prompt_tokens
from llm_problem.subspaces.base import Subspace, positive_int, prompt_text
from llm_problem.subspaces.deltas import Delta, EmbeddingDelta
from llm_problem.subspaces.gaussian import gaussian_columns
from llm_problem.subspaces.prompted import PromptedSubspace
from llm_problem.subspaces.scale import PROMPT_STEP


@dataclass(frozen=True)
class SoftPrompt(Subspace):
    """Search a random subspace of the embeddings of a prompt.

    Args:
        text: the prompt; its p tokens, without special ones, stand before whatever the model reads (before an
            encoder-decoder's sources), special tokens included, as PEFT's virtual tokens do.
        dimension: d, at least 1 and at most p · hidden; P takes d · p · hidden · 4 bytes.
        scale: length of a column of P; None makes E‖P x‖ at x ~ N(0, I) a set share of ‖E0‖ (see `scale.py`).
    """

    kind: ClassVar[str] = "soft-prompt"

    text: str
    dimension: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(text=prompt_text(self.text), dimension=positive_int("dimension", self.dimension))

    def bind(self, model: LoadedModel, seed: int) -> BoundSoftPrompt:
        return BoundSoftPrompt(self, model, seed)


class BoundSoftPrompt(PromptedSubspace):
    """The prompt's tokens and the frozen P, (d, p, hidden)."""

    def __init__(self, config: SoftPrompt, model: LoadedModel, seed: int) -> None:
        self.dimension, self.parameters = config.dimension, ()
        self.tokens = torch.tensor(prompt_tokens(model, config.text))
        embeddings = prompt_embeddings(model, self.prompt)  # (p, hidden)
        columns = gaussian_columns(self.dimension, embeddings.numel(), seed, _STREAM, "numbers of the embeddings")
        # Columns of length c give E‖P x‖² = d c² at x ~ N(0, I).
        length = config.scale or PROMPT_STEP * float(embeddings.double().norm()) / self.dimension**0.5
        self.projection = (columns * length).view(-1, *embeddings.shape).to(embeddings)

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return [EmbeddingDelta(torch.einsum("nd,dph->nph", X.to(self.projection), self.projection))]

    def basis(self) -> Iterable[torch.Tensor]:
        yield self.tokens
        yield self.projection


_STREAM = 0x50F7  # keeps this basis apart from other draws with the same seed
