"""How a text is written: token by token, the likeliest or a drawn one, until something ends it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decoding:
    """Settings of generation.

    Args:
        max_new_tokens: at most so many tokens are written, and no more than the model's context has room for.
        stop: strings that end a text, of which they are no part; the model's own end token does so anyway.
        temperature: 0 takes the likeliest token; t > 0 draws one from softmax(logits / t).
        top_p: draws from the fewest likeliest tokens that hold this probability (Holtzman et al. 2020,
            arXiv:1904.09751); 1 draws from all.
        seed: of the draws, which follow from it, the prompt and the place alone: equal prompts get equal texts, in
            whatever company they are asked.

    Raises:
        ValueError: a number out of its range, or a stop that is no string or an empty one.
    """

    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, smallest in (("max_new_tokens", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < smallest:
                raise ValueError(f"{name} must be an integer of at least {smallest}, got {value!r}")
            object.__setattr__(self, name, int(value))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop must be strings that are not empty, such as ('\\n',), got {self.stop!r}")
        object.__setattr__(self, "stop", stop)
        if not _is_number(self.temperature) or not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and not negative, got {self.temperature!r}")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p!r}")
        object.__setattr__(self, "temperature", float(self.temperature))
        object.__setattr__(self, "top_p", float(self.top_p))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
