"""Prefix (Li & Liang 2021, arXiv:2101.00190): the keys and values of a prompt, moved in each layer.

The model finds a prompt in its cache before it reads a text, and x moves what stands there: in layer l
K = K0 + rms(K0) (P x)_{l,K} and V = V0 + rms(V0) (P x)_{l,V}, with K0 and V0 what the pretrained model keeps of a real
text's tokens, and P one frozen Gaussian projection onto all that is moved. At x = 0 the model is the pretrained one,
prompted with that text. BBTv2 (Sun et al. 2022, arXiv:2205.11200) searches prompts of all layers without gradients like
this, layer by layer in turn; it moves their hidden states, with a projection for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.prompts import prompt_cache, prompt_tokens
from llm_problem.models.targets import layer_numbers
from llm_problem.subspaces.base import Subspace, layers_value, positive_int, prompt_text
from llm_problem.subspaces.deltas import Delta, PrefixDelta
from llm_problem.subspaces.gaussian import gaussian_columns
from llm_problem.subspaces.prompted import PromptedSubspace
from llm_problem.subspaces.scale import relative_step


@dataclass(frozen=True)
class Prefix(Subspace):
    """Search a random subspace of the keys and values that some layers keep of a prompt; for causal models.

    Args:
        text: the prompt; its p tokens, without special ones, stand before whatever the model reads, special tokens
            included.
        dimension: d, at least 1 and at most the N keys and values that are moved; P takes d · N · 4 bytes.
        layers: k for the last k layers, a sequence of layer numbers, or None for all.
        scale: length of a column of P, in units of the root mean square of each layer's keys or values; None makes
            E‖ΔK‖ at x ~ N(0, I) a set share of ‖K0‖, and so for the values (see `scale.py`).
    """

    kind: ClassVar[str] = "prefix"

    text: str
    dimension: int = 32
    layers: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(text=prompt_text(self.text), dimension=positive_int("dimension", self.dimension))
        self._set(layers=layers_value(self.layers))

    def bind(self, model: LoadedModel, seed: int) -> BoundPrefix:
        if model.kind != "causal":
            what = {"masked": "a masked", "seq2seq": "an encoder-decoder"}[model.kind]
            raise ValueError(
                f"a prefix is a causal model's cache, and {model.name} is {what} model: SoftPrompt(text, …) moves the "
                "prompt's embeddings instead"
            )
        return BoundPrefix(self, model, layer_numbers(self.layers, model.layers), seed)


class BoundPrefix(PromptedSubspace):
    """The prompt's tokens and the frozen P of each moved layer's keys and values, (d, shared heads, p, size)."""

    def __init__(self, config: Prefix, model: LoadedModel, layers: list[int], seed: int) -> None:
        self.dimension, self.parameters, self.layers = config.dimension, (), layers
        self.tokens = torch.tensor(prompt_tokens(model, config.text))
        cache = prompt_cache(model, self.prompt)
        moved = [tensor for layer in layers for tensor in cache[layer]]
        sizes = [tensor.numel() for tensor in moved]
        columns = gaussian_columns(self.dimension, sum(sizes), seed, _STREAM, "keys and values")
        # In units of the rms, columns of length c give E‖P x‖² = d c² at x ~ N(0, I), where ‖all that is moved‖² = N.
        step = relative_step(len(moved), model.layers)
        length = config.scale or step * (sum(sizes) / self.dimension) ** 0.5
        self.projections = [
            (part * (length * _rms(tensor))).view(-1, *tensor.shape).to(tensor)
            for part, tensor in zip(columns.split(sizes, dim=1), moved, strict=True)
        ]

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        moved = [torch.einsum("nd,dhps->nhps", X.to(projection), projection) for projection in self.projections]
        return [PrefixDelta(layer, *moved[2 * k : 2 * k + 2]) for k, layer in enumerate(self.layers)]

    def basis(self) -> Iterable[torch.Tensor]:
        yield self.tokens
        yield from self.projections


def _rms(tensor: torch.Tensor) -> float:
    return float(tensor.double().square().mean()) ** 0.5


_STREAM = 0x9EF1  # keeps this basis apart from other draws with the same seed
