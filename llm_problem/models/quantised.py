"""Models that stay quantised: their weights are tensors of a library's own kind (torchao's, say), read here as numbers.

x needs no gradient, so nothing has to be unpacked but the few weights that it moves. Only kinds whose module computes
with exactly the numbers that `dequantize` gives are right here (weight-only quantisation); the evaluators are compared
when a problem is made.
"""

from __future__ import annotations

from typing import Any

import torch


def is_quantised(tensor: torch.Tensor) -> bool:
    """Whether a weight is a library's own kind of tensor that can say its numbers."""
    own = type(tensor) not in (torch.Tensor, torch.nn.Parameter)
    return own and callable(getattr(tensor, "dequantize", None))


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A weight as numbers: detached, and dequantised where it is quantised."""
    return tensor.dequantize() if is_quantised(tensor) else tensor.detach()


def kinds(model: Any) -> list[str]:
    """Names of the kinds of quantised weights in a model, sorted; empty for a plain one."""
    return sorted({type(p).__name__ for p in model.parameters() if is_quantised(p)})
