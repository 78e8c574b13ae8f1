"""Black-box refinement of a gradient solution: Adam on a smooth objective, then any optimizer on the one that is meant.

What counts is often not what has a gradient: the classification error is flat almost everywhere, while the loss that
stands for it is smooth. Adam goes down the loss, and the black-box optimizer starts where Adam ended.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem_adapters.base import BaseOptimizer, SearchSpace
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.options import fraction, positive
from llm_problem_adapters.registry import make_optimizer, takes_gradients
from llm_problem_adapters.result import Result


def refine(
    smooth: Any,
    problem: Any,
    optimizer: str,
    budget: int,
    *,
    share: float = 0.5,
    scale: float = 0.3,
    seed: int = 0,
    gradient: str = "adam",
    **options: Any,
) -> tuple[Result, Result]:
    """Minimise `smooth` by its gradient, and then `problem` from there on, with `budget` evaluations in all.

    >>> smooth = lp.Problem("tiny-gpt2", task, subspace, objective="loss")
    >>> problem = lp.Problem("tiny-gpt2", task, subspace, objective="error")
    >>> descended, refined = refine(smooth, problem, "evolution-strategy", budget=300)

    Args:
        smooth: a problem with `value_and_grad`, of the same x.
        problem: what is to be minimised in the end.
        optimizer: name of the black-box optimizer, of `list_optimizers(gradients=False)`.
        budget: evaluations of both, at least 2, gradients charged as `minimize` does.
        share: of the budget that is spent on `smooth`, above 0 and below 1; each side has one evaluation at least, and
            what the first one leaves over, because it stopped by itself, is the second one's.
        scale: the black-box optimizer's step in units of the problem's sigma, positive.
        seed: of both.
        gradient: name of an optimizer that takes gradients.
        **options: of the black-box optimizer.

    Returns:
        The results on `smooth` and on `problem`. The second begins with the point that the first recommends, so its
        `best_loss` is never above that point's.

    Raises:
        KeyboardInterrupt: in the first run, whose `Result` so far is its attribute `partial_result`.
        TypeError: an option that the black-box optimizer does not have.
        ValueError: an argument out of its range, problems of different dimensions or bounds, an unknown name.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, np.integer)) or budget < 2:
        raise ValueError(f"budget must be an integer of at least 2, got {budget!r}")
    if smooth.dimension != problem.dimension:
        raise ValueError(f"both problems must be of one x, got dimensions {smooth.dimension} and {problem.dimension}")
    inner, outer = (SearchSpace.build(p.dimension, p.x0, p.bounds, p.sigma) for p in (smooth, problem))
    if (inner.lower < outer.lower).any() or (inner.upper > outer.upper).any():
        raise ValueError("the bounds of `smooth` reach beyond those of `problem`, where the second run could not begin")
    for name, expected in ((gradient, True), (optimizer, False)):
        if takes_gradients(name) != expected:
            raise ValueError(f"{name!r} {'takes no gradients' if expected else 'takes gradients'}; see list_optimizers")
    first = min(max(1, round(fraction("share", share) * budget)), budget - 1)
    sigma = positive("scale", scale) * np.asarray(problem.sigma)

    def started(x0: Any, horizon: int) -> BaseOptimizer:
        return make_optimizer(
            optimizer,
            dimension=problem.dimension,
            x0=x0,
            bounds=problem.bounds,
            sigma=sigma,
            horizon=horizon,
            seed=seed,
            **options,
        )

    started(problem.x0, budget - first)  # raises here, before anything is spent, what is wrong with it
    descended = minimize(smooth, gradient, first, seed=seed)
    if descended.stop_reason == "interrupted":
        interruption = KeyboardInterrupt()
        interruption.partial_result = descended  # type: ignore[attr-defined]
        raise interruption
    left = budget - descended.evaluations
    return descended, minimize(problem, started(descended.x, left), left)
