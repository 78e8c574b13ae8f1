"""The small modules of a layer, norms and activations, as functions: the model's own, or the same in fewer passes.

A shorter form is used only where it is seen to give what the module gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import gelu, silu
from transformers.activations import NewGELUActivation, SiLUActivation

Function = Callable[[torch.Tensor], torch.Tensor]


def norm(module: Any) -> Function:
    """A norm as a function of activations in working precision."""
    module = in_working_precision(module)
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if weight is None or epsilon is None or weight.dtype != torch.float32:
        return module
    shorter = partial(root_mean_square_norm, weight=weight.detach(), epsilon=float(epsilon))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((3, weight.shape[-1]), generator=generator).to(weight.device)
    with torch.inference_mode():
        same = torch.allclose(shorter(x), module(x), rtol=1e-5, atol=1e-6)
    return shorter if same else module


def root_mean_square_norm(x: torch.Tensor, *, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """w · x / √(mean(x²) + ε) (Zhang & Sennrich 2019, arXiv:1910.07467), over the last axis, in three passes."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (x * length.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()).mul_(weight)


def reordered(module: Any, order: np.ndarray) -> Any:
    """A norm over a head whose numbers stand in another order; None stays None."""
    if module is None:
        return None
    module = copy.deepcopy(module).to(torch.float64 if module.weight.dtype == torch.float64 else torch.float32)
    module.weight.data = module.weight.data[torch.from_numpy(order).to(module.weight.device)]
    return norm(module)


def in_working_precision(module: Any) -> Any:
    """The model's own module, or a copy in single precision of one that is stored in less."""
    low = any(p.dtype in (torch.bfloat16, torch.float16) for p in module.parameters())
    return copy.deepcopy(module).float() if low else module


def activation(module: Any) -> Function:
    """An activation that may overwrite its input."""
    if isinstance(module, nn.SiLU | SiLUActivation):
        return partial(silu, inplace=True)
    if isinstance(module, NewGELUActivation):  # written out in eight passes there
        return partial(gelu, approximate="tanh")
    return module
