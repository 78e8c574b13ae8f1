"""What a run has found: on the way, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from llm_problem_adapters.generalisation import Choice


@dataclass(frozen=True)
class Progress:
    """What a callback gets after each batch, before the optimizer is told."""

    evaluations: int  # so far, this batch included
    budget: int
    best_loss: float  # so far, of a feasible point; inf where none was finite
    X: np.ndarray  # (k, d) points of this batch, read-only
    losses: np.ndarray  # (k,) as they were found, non-finite ones too; read-only
    seconds: float  # since the run began
    status: np.ndarray  # (k,) as in `Result.history`; read-only
    violations: np.ndarray | None = None  # (k,) Σ max(G, 0); None where the problem has no constraints; read-only


@dataclass(frozen=True, repr=False)
class Result:
    """What `minimize` found. Losses are minimised; the recommended point and the best seen are kept apart.

    Where the search examples were drawn anew (`Generalisation.resample`), losses of the search are of minibatches,
    `loss` is x's on the whole split, and the best seen is x, since no others are comparable.

    With constraints, both are feasible points if any was found, else the one that violates the constraints least.
    """

    x: np.ndarray  # (d,) the point the optimizer recommends
    loss: float  # its own, evaluated within the budget; inf where no loss was finite
    best_x: np.ndarray  # (d,) the best point evaluated; x0 where no loss was finite
    best_loss: float  # inf where no loss was finite
    evaluations: int
    seconds: float
    stop_reason: str  # "budget", "interrupted", "time limit", or the optimizer's own
    optimizer: str
    seed: int
    X: np.ndarray | None = field(default=None)  # (evaluations, d) with keep_x, else None
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))  # (evaluations,) raw; NaN if not "ok"
    status: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="<U10"))  # (evaluations,) see `history`
    batches: tuple[tuple[int, float], ...] = ()  # of each batch: number of points, seconds at its end
    violation: float = 0.0  # of x, Σ max(G, 0); 0 where it is feasible
    violations: np.ndarray | None = None  # (evaluations,) of each point; None where the problem has no constraints
    generalisation: Choice | None = None  # how x was chosen by options of that name, None where there were none

    @property
    def feasible(self) -> bool:
        """Whether x keeps to the constraints, if there are any."""
        return self.violation == 0

    @property
    def used_gradients(self) -> bool:
        """Whether the optimizer was given gradients: a reference for black-box search, and none itself."""
        return bool((self.status == "gradient").any())

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an evaluation.

        Columns: evaluation (from 1), batch (from 1: the points of one ask), loss (raw), best_loss (so far, of a
        feasible point; inf before the first finite one), status ("ok", "non-finite", "censored", "failed", "timed out",
        or "gradient" for an evaluation that the gradient of the last "ok" one is charged as), seconds (from the start
        to the end of its batch); with constraints violation (Σ max(G, 0), 0 where feasible).
        """
        return _history(self.losses, self.status, self.batches, self.violations)

    def __repr__(self) -> str:
        return (
            f"Result(loss={self.loss:.6g}, best_loss={self.best_loss:.6g}, "
            + (f"feasible={self.feasible}, violation={self.violation:.3g}, " if self.violations is not None else "")
            + f"evaluations={self.evaluations}, "
            f"optimizer={self.optimizer!r}, "
            + ("used_gradients=True, " if self.used_gradients else "")
            + (f"dev_evaluations={self.generalisation.evaluations}, " if self.generalisation else "")
            + f"seed={self.seed}, stop_reason={self.stop_reason!r}, "
            f"seconds={self.seconds:.3g}, dimension={self.x.size})"
        )


def _history(
    losses: np.ndarray,
    status: np.ndarray,
    batches: tuple[tuple[int, float], ...],
    violated: np.ndarray | None,
) -> pd.DataFrame:
    import pandas as pd

    counts = np.array([count for count, _ in batches], dtype=np.int64)
    counted = np.isfinite(losses) if violated is None else np.isfinite(losses) & (violated == 0)
    columns = {
        "evaluation": np.arange(1, len(losses) + 1),
        "batch": np.repeat(np.arange(1, len(counts) + 1), counts),
        "loss": losses,
        "best_loss": np.minimum.accumulate(np.where(counted, losses, np.inf)),
        "status": status,
        "seconds": np.repeat(np.array([seconds for _, seconds in batches]), counts),
    }
    return pd.DataFrame(columns if violated is None else {**columns, "violation": violated})
