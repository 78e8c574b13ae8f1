"""What does not depend on x, of prompts that are read for one candidate after another."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from llm_problem.models.prompts import KeysAndValues


@dataclass(frozen=True, eq=False)
class Below:
    """A pass of some prompts through the layers below the first one that x moves.

    `hidden` (b, t, hidden) is what enters that layer, `layers` the keys and values (b, shared heads, t, size) of those
    below, with all that came before.
    """

    hidden: torch.Tensor
    layers: list[KeysAndValues]


@dataclass(eq=False)
class Memory:
    """Of a batch of prompts: passes by number, or an encoder's outputs by theirs, up to a number of bytes."""

    room: int
    passes: dict[tuple[int, int], Below] = field(default_factory=dict)
    encoded: dict[int, torch.Tensor] = field(default_factory=dict)
    bytes: int = 0

    def keep(self, number: tuple[int, int], hidden: torch.Tensor, layers: list[KeysAndValues]) -> None:
        """A pass, if there is room for it."""
        if self._fits(hidden, *(tensor for pair in layers for tensor in pair)):
            self.passes[number] = Below(hidden, layers)

    def keep_encoded(self, number: int, encoded: torch.Tensor) -> None:
        """What an encoder makes of some sources, if there is room for it."""
        if self._fits(encoded):
            self.encoded[number] = encoded

    def _fits(self, *tensors: torch.Tensor) -> bool:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if self.bytes + size > self.room:
            return False
        self.bytes += size
        return True
