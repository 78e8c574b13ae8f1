"""CMA-ES (Hansen and Ostermeier, 2001) by pycma, full or diagonal, behind the ask/tell protocol.

Hansen, "The CMA Evolution Strategy: A Tutorial" (arXiv:1604.00772); Ros and Hansen, "A Simple Modification in
CMA-ES Achieving Linear Time and Space Complexity" (2008) for the diagonal form;
https://github.com/CMA-ES/pycma
"""

from __future__ import annotations

import difflib
import os
from typing import Any

import numpy as np

from llm_problem_adapters.base import BaseOptimizer, is_integer
from llm_problem_adapters.feasibility import behind_the_worst, violations
from llm_problem_adapters.options import positive

# Beyond this one finite loss is as bad as another, and sums of them still are finite.
LARGEST = 1e100

# What sigma is multiplied by after a generation without a finite loss.
SHRINK = 0.5

# pycma holds C, its eigenbasis, C^(−1/2) and two more of that size while it updates (5.04 were counted at
# d = 2,000), and LAPACK's eigensolver works on a copy with two more beside it.
MATRICES = 8

# What follows from `setup` and the name, or would print or write files.
_RESERVED = {
    "CMA_diagonal", "bounds", "randn", "seed", "signals_filename", "verb_append", "verb_disp",
    "verb_disp_overwrite", "verb_filenameprefix", "verb_log", "verb_log_expensive", "verb_plot", "verb_time",
    "verbose",
}  # fmt: skip


class CMAOptimizer(BaseOptimizer):
    """pycma's CMA-ES from x0; the distribution's mean is recommended.

    Normals come from the optimizer's own generator, so numpy's global one is neither read nor seeded, and
    every seed, 0 too, means itself. `batch_size` is the population size λ, at least 2; without it λ = 4 +
    ⌊3 ln d⌋. `horizon` changes nothing. Where one of pycma's own conditions stops it, `stop_reason` names it.
    The loss of x0 that `start_at_x0` brings is not told to pycma: x0 is the mean it starts from, and its
    update ranks only draws.

    Losses that are not finite are the last in their generation's ranking. A generation without a finite one ranks
    nothing, and pycma would take it for a flat function and stop: it is not told, and the next one is drawn from the
    same distribution with half the step, since the draws are what left the finite region about the mean. Infeasible
    points come behind their generation's feasible ones, ordered by violation.

    Args:
        diagonal: restrict C to its diagonal: time and memory linear in d, where a full C takes d² of both.
        step: standard deviation of the first generation, in the problem's sigma. A whole sigma is what random search
            wants; 1,000 evaluations are some 60 generations, too few to shrink from there in 128 dimensions
            (docs/step-sizes.md).
        **options: of pycma (`cma.CMAOptions()` lists them), `popsize`, `tolfun` or `CMA_active` for instance.

    Raises:
        ImportError: pycma is not installed.
        TypeError: an option that pycma does not have, or that is set here.
        ValueError: a step that is not positive and finite; from `setup`, a λ below 2.
        MemoryError: from `setup`, a full C that this machine's memory cannot hold.
    """

    handles_constraints = True

    def __init__(self, *, diagonal: bool = False, step: float = 0.5, **options: Any) -> None:
        self.diagonal, self.step, self.options = bool(diagonal), positive("step", step), options
        self.name = "cma-diagonal" if diagonal else "cma"
        known = set(_import_cma().CMAOptions.defaults()) - _RESERVED
        for option in options:
            if option not in known:
                near = ", ".join(difflib.get_close_matches(option, known, n=5, cutoff=0.5)) or "none"
                raise TypeError(f"{self.name} has no option {option!r}; near names: {near}")

    def _setup(self) -> None:
        cma = _import_cma()
        if not self.diagonal:
            check_memory(self.space.dimension)
        popsize = self.options.get("popsize", self.batch_size)
        if popsize is not None and (not is_integer(popsize) or popsize < 2):
            raise ValueError(f"{self.name} needs a batch_size (its population) of at least 2, got {popsize!r}")
        sigma = self.step * self.space.sigma
        options: dict[str, Any] = {
            "CMA_diagonal": self.diagonal,
            "bounds": [_bound(self.space.lower), _bound(self.space.upper)],
            "randn": Normals(self.rng),
            "seed": np.nan,  # pycma's word for leaving numpy's global generator alone
            "signals_filename": "",
            "verb_disp": 0,
            "verb_log": 0,
            "verbose": -9,
        }
        if popsize is not None:
            options["popsize"] = int(popsize)
        if not (sigma == sigma[0]).all():
            options["CMA_stds"] = sigma / sigma.max()
        options.update(self.options)
        self._strategy = cma.CMAEvolutionStrategy(self.space.x0, float(sigma.max()), options)
        self._points: list[np.ndarray] = []

    def _ask(self) -> np.ndarray:
        self._points = self._strategy.ask()
        return np.stack(self._points)  # (λ, d)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        losses = ranked(F if self.G is None else behind_the_worst(F, violations(self.G)))
        if losses is None:
            self._strategy.sigma *= SHRINK
            for x in self._points:  # kept until they are told
                self._strategy.sent_solutions.pop(x, None)
            return
        self._strategy.tell(self._points, losses.tolist())
        stop = self._strategy.stop()
        if stop:
            self.stop_reason = f"{self.name}: " + ", ".join(f"{name}={value}" for name, value in stop.items())

    def _recommend(self) -> np.ndarray:
        return self.space.clip(self._strategy.result.xfavorite)


class Normals:
    """numpy's legacy `randn` from a generator, for pycma; it can be pickled."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def __call__(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape)


def ranked(F: np.ndarray) -> np.ndarray | None:
    """Losses (λ,) for pycma, finite: a loss that is not comes behind the generation's worst; None if none is finite.

    Not far behind, because pycma's stop conditions compare ranges and medians of what it was told; and not level with
    it, because a generation whose first three quarters are equal counts as flat.
    """
    finite = np.isfinite(F)
    if not finite.any():
        return None
    F = np.clip(F, -LARGEST, LARGEST)
    best, worst = F[finite].min(), F[finite].max()
    return np.where(finite, F, worst + (worst - best) + max(1.0, abs(worst)))


def check_memory(dimension: int, name: str = "cma", instead: str = '"cma-diagonal"') -> None:
    """Refuse a full covariance matrix that does not fit.

    Raises:
        MemoryError: says how much it takes and what there is.
    """
    needed, there = MATRICES * 8 * dimension**2, _memory()
    if there is not None and needed > there:
        raise MemoryError(
            f"{name} keeps full {dimension:,} × {dimension:,} covariance matrices and needs about "
            f"{needed / 2**30:,.1f} GiB, but this machine has {there / 2**30:,.1f} GiB; "
            f"use {instead}, whose memory is linear in the dimension"
        )


def _memory() -> int | None:
    """This machine's memory in bytes, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _bound(bound: np.ndarray) -> list[float] | None:
    return bound.tolist() if np.isfinite(bound).any() else None


def _import_cma() -> Any:
    try:
        import cma
    except ImportError as error:
        raise ImportError("pycma is needed for this: pip install cma") from error
    return cma
