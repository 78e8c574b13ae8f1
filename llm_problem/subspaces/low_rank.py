"""What the low-rank subspaces share: their settings, weights that have the rank, singular vectors, a step's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel
from llm_problem.models.quantised import plain
from llm_problem.models.targets import Layers, Target, find_targets
from llm_problem.subspaces.base import Subspace, layers_value, modules_tuple, positive_int


@dataclass(frozen=True)
class RankedSubspace(Subspace):
    """Base of the descriptions that are a rank and where it is."""

    rank: int = 4
    layers: int | Sequence[int] | None = None
    modules: str | Sequence[str] = ("q_proj", "v_proj")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(rank=positive_int("rank", self.rank))
        self._set(layers=layers_value(self.layers), modules=modules_tuple(self.modules))

    def chosen(self, model: LoadedModel) -> list[Target]:
        """The chosen weights; errors as for `targets_of_rank`."""
        return targets_of_rank(model, self.modules, self.layers, self.rank)


def targets_of_rank(model: LoadedModel, modules: str | Sequence[str], layers: Layers, rank: int | None) -> list[Target]:
    """The chosen weights, each of at least the rank; `modules` and `layers` as `find_targets` takes them.

    Raises:
        ValueError: a rank above the smaller side of a weight; a choice that fits nothing.
    """
    targets = find_targets(model.model, modules, layers)
    for target in targets:
        if rank is not None and rank > min(target.shape):
            raise ValueError(
                f"rank {rank} is above the rank of {target.name}, whose shape is {target.shape}: "
                f"at most {min(target.shape)}"
            )
    return targets


def stored_and_read(model: LoadedModel, targets: Sequence[Target]) -> Iterator[tuple[Target, torch.Tensor, np.ndarray]]:
    """Each target with its stored tensor (for precision and device) and W (out, in) in double precision."""
    state = dict(model.model.named_parameters())
    for target in targets:
        stored = plain(state[target.parameter])
        yield target, stored, target.read(stored).cpu().double().numpy()


def singular_factors(target: Target, weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(U_r Σ_r (out, r), V_rᵀ (r, in)) of a target's weight (out, in).

    Raises:
        ValueError: a weight of zeros, or one that is not finite.
    """
    _require_size(target, weight, "it has no singular vectors to search between")
    return truncated_svd(weight, rank)


def truncated_svd(weight: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """(U_r Σ_r (out, r), V_rᵀ (r, in)) of `weight` (out, in), signs fixed so that each row of V_rᵀ sums to ≥ 0."""
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    sign = np.where(vt[:rank].sum(axis=1) < 0, -1.0, 1.0)  # (r,)
    return u[:, :rank] * (s[:rank] * sign), vt[:rank] * sign[:, None]


def step(scale: float | None, share: float, target: Target, weight: np.ndarray, typical: float) -> float:
    """s, by which a map is multiplied: `scale` where it is given.

    Args:
        scale: of the description; None makes √E‖ΔW‖² at x ~ N(0, I) `share` of ‖W‖ (Frobenius norms).
        share: see `relative_step`.
        target: names the weight in the message.
        weight: W (out, in).
        typical: √E‖ΔW‖² at s = 1.

    Raises:
        ValueError: no scale, for a weight of zeros or one that is not finite.
    """
    if scale is not None:
        return scale
    return share * _require_size(target, weight, "a step has no size to go by, choose a scale") / typical


def _require_size(target: Target, weight: np.ndarray, otherwise: str) -> float:
    """‖W‖, which must be positive and finite."""
    size = float(np.linalg.norm(weight))
    if not (np.isfinite(size) and size > 0):
        raise ValueError(f"{target.name} is zero or not finite: {otherwise}")
    return size
