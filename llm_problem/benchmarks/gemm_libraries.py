"""The libraries that multiply matrices, as torch reaches them, and how fast they are at one shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Product = Callable[[], Any]


def default_product(m: int, k: int, n: int) -> Product:
    """(m, k)·(k, n) by the library behind torch's own products (MKL, OpenBLAS, …)."""
    x, weight = _operands(m, k, n)
    return _without_gradients(lambda: torch.nn.functional.linear(x, weight))


def prepacked_product(m: int, k: int, n: int) -> Product:
    """The same by oneDNN with the weight reordered beforehand, through private operators of torch.

    Raises:
        RuntimeError: this torch has no such operators, or they compute something else; says what.
    """
    x, weight = _operands(m, k, n)
    operators = torch.ops.mkldnn
    try:
        # A private interface may change its name, its arguments or what it takes.
        packed = operators._reorder_linear_weight(weight, m)
        product = _without_gradients(lambda: operators._linear_pointwise(x, packed, None, "none", [], ""))
        found = product()
    except (AttributeError, TypeError, NotImplementedError, RuntimeError) as error:
        raise RuntimeError(str(error).splitlines()[0]) from error
    if not torch.allclose(found, x @ weight.T, rtol=1e-3, atol=1e-3 * k**0.5):
        raise RuntimeError("the products differ from torch's own")
    return product


def prepacked_missing() -> str | None:
    """Why oneDNN with prepacked weights cannot be measured here; None where it can."""
    try:
        prepacked_product(64, 64, 64)
    except RuntimeError as error:
        return str(error)
    return None


def _operands(m: int, k: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)


def _without_gradients(product: Product) -> Product:
    def call() -> Any:
        with torch.inference_mode():
            return product()

    return call
