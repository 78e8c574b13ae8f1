"""Subspaces side by side: x is their points one after another, the change is the sum of their changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import Delta

_STREAM = 0x7063  # keeps the parts' seeds apart from other draws with the same seed


@dataclass(frozen=True)
class Together(Subspace):
    """Search several subspaces at once.

    Args:
        parts: two or more subspaces, none of them Together itself (name its parts instead). Where two move the same
            weight, their changes add up.
        scale: by which x is multiplied, beside the parts' own scales. None leaves each part its unit, which a problem
            measures where the part's own scale is None.

    The dimension is the sum of theirs. Each part has a seed of its own, so that two equal parts have different bases.
    One part at most may bring a prompt.
    """

    kind: ClassVar[str] = "together"

    parts: Sequence[Subspace] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = tuple(self.parts) if isinstance(self.parts, Iterable) else (self.parts,)
        for part in parts:
            if not isinstance(part, Subspace):
                raise TypeError(f"parts must be subspaces such as LoRAXS(…), got {type(part).__name__}")
            if isinstance(part, Together):
                raise ValueError("Together inside Together: give all the parts to one")
        if len(parts) < 2:
            raise ValueError(f"parts must be two or more subspaces, got {len(parts)}")
        self._set(parts=parts)

    def bind(self, model: LoadedModel, seed: int) -> BoundTogether:
        bound = [part.bind(model, part_seed(seed, k)) for k, part in enumerate(self.parts)]
        with_prompt = [part.kind for part, b in zip(self.parts, bound, strict=True) if b.prompt]
        if len(with_prompt) > 1:
            raise ValueError(f"only one part may bring a prompt, these do: {', '.join(with_prompt)}")
        kept = [self.keeps_unit or part.keeps_unit for part in self.parts]
        together = BoundTogether(bound, kept, self.scale or 1.0, model.model.device)
        if any(b.description is not None for b in bound):
            parts = tuple(b.description or part for part, b in zip(self.parts, bound, strict=True))
            together.description = replace(self, parts=parts)
        return together


class BoundTogether(BoundSubspace):
    """The parts' own maps, each of its slice of x."""

    def __init__(self, parts: list[BoundSubspace], kept: list[bool], scale: float, device: torch.device) -> None:
        self.parts = parts
        self.sizes = [part.dimension for part in parts]
        self.dimension = sum(self.sizes)
        sizes = [part.block_sizes for part in parts]
        self.blocks = tuple(size for of_part in sizes for size in of_part)
        self.kept = tuple(keeps for keeps, of_part in zip(kept, sizes, strict=True) for _ in of_part)
        self.parameters = tuple(dict.fromkeys(name for part in parts for name in part.parameters))
        self.scale = torch.tensor([scale], dtype=torch.float64, device=device)

    @property
    def prompt(self) -> tuple[int, ...]:  # type: ignore[override]  # a part's, whatever was stored for it
        return next((part.prompt for part in self.parts if part.prompt), ())

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        slices = (X * self.scale.to(X.dtype)).split(self.sizes, dim=1)
        return [delta for part, x in zip(self.parts, slices, strict=True) for delta in part.deltas(x)]

    def basis(self) -> Iterable[torch.Tensor]:
        yield self.scale
        for part in self.parts:
            yield from part.basis()


def part_seed(seed: int, k: int) -> int:
    """The seed of part k."""
    return int(np.random.SeedSequence([seed, _STREAM, k]).generate_state(1, np.uint64)[0])
