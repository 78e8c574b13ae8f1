"""Constraints for optimizers that know losses only: the rules of Deb (2000), which have no parameter.

A feasible point is better than an infeasible one; of two feasible points the one with the lower loss is better, of two
infeasible ones that with the smaller violation Σ_j max(G_j, 0).

Source: K. Deb, *An efficient constraint handling method for genetic algorithms*, Computer Methods in Applied Mechanics
and Engineering 186, 2000. His penalty starts at the worst feasible loss of a generation (`behind_the_worst`); where
losses are kept from one generation to the next it has to start where no loss ever is (`in_order`).
"""

from __future__ import annotations

import numpy as np

INFEASIBLE = 1e100  # in the order of the rules the losses of infeasible points start here, above any feasible one
BROKEN = 1e9  # a constraint value for another library that is as bad as can be


def violations(G: np.ndarray) -> np.ndarray:
    """Σ_j max(G_j, 0), (k,), of constraint values G (k, c); +inf where one is NaN, 0 for a feasible point."""
    total = np.sum(np.maximum(G, 0.0), axis=1)
    return np.where(np.isnan(total), np.inf, total)


def in_order(F: np.ndarray, violation: np.ndarray, low: float = INFEASIBLE, high: float = 2 * INFEASIBLE) -> np.ndarray:
    """Losses (k,) whose order is that of Deb's rules, for ever: from `low` to `high` for infeasible points.

    Args:
        F: (k,) losses; those of feasible points stay, and so does what is not finite.
        violation: (k,).
        low: above every feasible loss.
        high: above that.
    """
    share = 1.0 - 1.0 / (1.0 + violation)  # from 0 to 1
    return np.where((violation > 0) & np.isfinite(F), low + (high - low) * share, F)


def behind_the_worst(F: np.ndarray, violation: np.ndarray) -> np.ndarray:
    """Losses (k,) of one generation in the order of Deb's rules: the worst feasible loss + violation for an infeasible
    point (0 + violation where none is feasible), so that they are of the losses' own size; arguments as above."""
    finite = np.isfinite(F)
    feasible = finite & (violation <= 0)
    worst = F[feasible].max() if feasible.any() else 0.0
    return np.where(finite & (violation > 0), worst + violation, F)


def finite_constraints(F: np.ndarray, G: np.ndarray) -> np.ndarray:
    """G (k, c) for another library: finite, and broken by any point whose loss is not finite."""
    usable = np.isfinite(F)[:, None] & np.isfinite(G)
    return np.where(usable, G, BROKEN)
