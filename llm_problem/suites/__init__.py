"""Named problems for comparing algorithms, in three suites.

tiny   the bundled models: milliseconds an evaluation, dimensions 8 to 960 and a full vector, three instances of each
real   SmolLM2-135M: several tasks, subspaces and depths
own    the same tasks and subspaces on any model: `get("own", model=…)`
"""

from __future__ import annotations

from typing import Any

from llm_problem.suites import named
from llm_problem.suites.cards import all_cards, card
from llm_problem.suites.own_model import own_model
from llm_problem.suites.suite import Entry, Suite, named_suite, unknown

TIERS = {"tiny": (("tiny-gpt2", "tiny-bert"), 3), "real": (("smollm2-135m",), 1)}  # models; how many instances
NAMES = (*TIERS, "own")

__all__ = ["NAMES", "Entry", "Suite", "all_cards", "card", "get", "own_model"]


def get(name: str, **options: Any) -> Suite:
    """The suite of that name; "own" takes `own_model`'s arguments.

    Raises:
        ValueError: an unknown name (with the nearest one).
        TypeError: options that the suite does not take, or no model for "own".
    """
    if name == "own":
        if "model" not in options:
            raise TypeError('the suite "own" is made for a model: get("own", model="models/mine")')
        return own_model(**options)
    if not isinstance(name, str) or name not in TIERS:
        raise unknown("suite", str(name), NAMES)
    if options:
        raise TypeError(f"the suite {name!r} takes no options, got {', '.join(options)}")
    models, instances = TIERS[name]
    return named_suite(name, [id for id, model in named.models().items() if model in models], instances)
