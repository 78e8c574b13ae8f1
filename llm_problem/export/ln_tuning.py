"""LN tuning (Zhao et al. 2023, arXiv:2312.11420): norms, each stored whole with its gain and bias."""

from __future__ import annotations

from llm_problem.export.point import NORMS, Adapter, Point, named


def ln_tuning(point: Point) -> Adapter:
    """The adapter of a point that changes norms only."""
    modules = point.modules_with(NORMS)
    tensors = {
        f"{named(module)}.ln_tuning_layers.{leaf}": tensor
        for module in modules
        for leaf, tensor in point.stored(module).items()
    }
    return Adapter("LN_TUNING", {"target_modules": modules}, tensors)
