"""How large a step one unit of x is, where a subspace is not told.

The rule: at x ~ N(0, I) the change of all moved weights together is a set share of the weights it changes, in root
mean square (Frobenius) norm, and the share of each weight shrinks with the number k of weights moved as 1/√k.
"""

from __future__ import annotations

import math

RELATIVE_STEP = 2.0
"""‖ΔW‖ / ‖W‖ at x ~ N(0, I) where one weight is moved."""


def relative_step(moved: int) -> float:
    """The share ‖ΔW‖/‖W‖ of each weight where `moved` weights are moved together."""
    return RELATIVE_STEP / math.sqrt(moved)
