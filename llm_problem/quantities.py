"""What can be minimised, added to the loss, or limited: the scores that a task offers, and three that every model has.

"drift" is how far the moved model's predictions are from the pretrained model's on neutral text (`llm_problem.drift`),
in nats per token; "forgetting" is what it loses at another task (`llm_problem.forgetting`), negative where it gains;
"norm" is ‖x‖²/d, the mean square of x in units of sigma: 0 at the pretrained model, about 1 for
x ~ N(0, I), whatever d is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from llm_problem.tasks import Task

OF_EVERY_MODEL = ("drift", "forgetting", "norm")
DIFFERENTIABLE = ("loss", *OF_EVERY_MODEL)

Pairs = tuple[tuple[str, float], ...]


def offered(task: Task) -> tuple[str, ...]:
    """The names of a problem's quantities."""
    return (*task.objectives, *OF_EVERY_MODEL)


def checked_names(objectives: Iterable[str], task: Task) -> tuple[str, ...]:
    """Objectives as a tuple.

    Raises:
        TypeError: a string, or something that is no sequence of names.
        ValueError: none, one twice, or one that there is not.
    """
    if isinstance(objectives, str):
        raise TypeError(f"objectives must be a tuple of names, got the string {objectives!r}")
    names = tuple(objectives)
    if not names:
        raise ValueError("at least one objective is needed")
    _require_offered("objective", names, task)
    if len(set(names)) != len(names):
        raise ValueError(f"an objective is named twice: {', '.join(names)}")
    return names


def checked_pairs(what: str, given: Any, task: Task) -> Pairs:
    """Numbers by quantity ("regularisation" weights, "constraints" limits), sorted by name.

    Args:
        what: their name in messages.
        given: a mapping, or pairs (name, number); None or nothing for none.
        task: says which quantities there are, beside those of every model.

    Raises:
        TypeError: something else.
        ValueError: a quantity that there is not, or twice; a number that is negative or not finite.
    """
    pairs = tuple(given.items()) if isinstance(given, Mapping) else () if given is None else given
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise TypeError(f"{what} must be a mapping such as {{'drift': 0.1}}, got {given!r}")
    pairs = tuple(pairs)
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise TypeError(f"{what} must be a mapping such as {{'drift': 0.1}}, got {given!r}")
    names = [name for name, _ in pairs]
    _require_offered(f"quantity in {what}:", names, task)
    if len(set(names)) != len(names):
        raise ValueError(f"{what} names a quantity twice: {', '.join(names)}")
    for name, number in pairs:
        plain = isinstance(number, (int, float, np.integer, np.floating)) and not isinstance(number, bool)
        if not plain or not 0 <= number < float("inf"):
            raise ValueError(f"{what}: {name!r} must have a finite number that is not negative, got {number!r}")
    return tuple(sorted((str(name), float(number)) for name, number in pairs))


def _require_offered(what: str, names: Iterable[Any], task: Task) -> None:
    for name in names:
        if name not in offered(task):
            raise ValueError(f"unknown {what} {name!r}: this task offers {', '.join(offered(task))}")
