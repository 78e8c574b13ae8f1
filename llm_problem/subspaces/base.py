"""A subspace: a linear map from x in R^d to changes of a model's weights, zero at x = 0.

A `Subspace` is a description (frozen, JSON and back) that knows no model; `bind` meets it with one and gives a
`BoundSubspace`, which holds the frozen basis.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.subspaces.deltas import Delta


@dataclass(frozen=True, kw_only=True)
class Subspace(ABC):
    """Base of all descriptions.

    `scale` multiplies the map: a larger one makes a unit of x a larger step. None takes each subspace's own rule, from
    which a problem goes on to measure the unit that it works with (`llm_problem.calibration`); a scale that is given is
    kept as it is.
    """

    kind: ClassVar[str] = ""
    scale: float | None = None

    def __post_init__(self) -> None:
        number = isinstance(self.scale, (int, float, np.integer, np.floating)) and not isinstance(self.scale, bool)
        if self.scale is not None and not (number and np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be positive and finite, or None for the default, got {self.scale!r}")
        self._set(scale=None if self.scale is None else float(self.scale))

    def _set(self, **values: Any) -> None:
        """Store checked forms of what a frozen dataclass was given; for `__post_init__` only."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def keeps_unit(self) -> bool:
        """Whether a unit of x is as long as this description says, and is not measured by a problem."""
        return self.scale is not None

    @abstractmethod
    def bind(self, model: LoadedModel, seed: int) -> BoundSubspace:
        """The map on this model; a random basis follows from `seed` alone.

        Raises:
            ValueError: the model has no such modules or layers, or the numbers do not fit its shapes.
        """


class BoundSubspace(ABC):
    """The map on one model: `deltas` is linear in x and zero at x = 0."""

    dimension: int
    parameters: tuple[str, ...]
    """Names of the stored tensors that may change."""
    prompt: tuple[int, ...] = ()
    """Token ids that stand before every sequence (before an encoder-decoder's sources), where x moves a prompt.

    They are part of the basis: `PromptedSubspace` reads them from its tensor."""
    blocks: tuple[int, ...] = ()
    """Sizes of the parts of x that have a scale of their own, in order; empty for one part."""
    kept: tuple[bool, ...] = ()
    """For each of these parts, whether its unit is kept; empty where the description alone says so."""
    description: Subspace | None = None
    """What was bound, with what binding found of the models that it names (their sha256); None where it lacked none."""

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """`blocks`, or the dimension where x is of one part."""
        return self.blocks or (self.dimension,)

    @abstractmethod
    def deltas(self, X: torch.Tensor) -> list[Delta]:
        """The changes for candidates X (n, d), on the model's device; differentiable in X."""

    @abstractmethod
    def basis(self) -> Iterable[torch.Tensor]:
        """The frozen arrays that define the map, in a fixed order: the very tensors in use, none of the model's own."""

    def basis_hash(self) -> str:
        """sha256 over the frozen arrays (64 hex digits)."""
        return hash_tensors(self.basis())


def hash_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """sha256 over tensors in their order (64 hex digits)."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def positive_int(name: str, value: Any) -> int:
    """`value` as an int of at least 1.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def prompt_text(text: Any) -> str:
    """The text of a prompt, if it is one.

    Raises:
        ValueError: not a string, or an empty one.
    """
    if not isinstance(text, str) or not text:
        raise ValueError(f"text must be the prompt that the search starts from, such as 'Classify: ', got {text!r}")
    return text


def modules_tuple(modules: str | Sequence[str]) -> tuple[str, ...]:
    """A checked tuple of module names.

    Raises:
        ValueError: no names, or one that is not a string.
    """
    names = (modules,) if isinstance(modules, str) or not isinstance(modules, Iterable) else tuple(modules)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"modules must be one or more names such as ('q_proj', 'v_proj'), got {modules!r}")
    return names


def layers_value(layers: Any) -> int | tuple[int, ...] | None:
    """Layers as an int, a tuple of ints or None, so that descriptions compare and survive JSON.

    Raises:
        ValueError: something else.
    """
    if layers is None:
        return None
    several = isinstance(layers, Iterable) and not isinstance(layers, str)
    numbers = tuple(layers) if several else (layers,)
    if not all(isinstance(number, (int, np.integer)) and not isinstance(number, bool) for number in numbers):
        raise ValueError(
            f"layers must be k for the last k layers, a sequence of layer numbers, or None for all, got {layers!r}"
        )
    return tuple(int(number) for number in numbers) if several else int(layers)
