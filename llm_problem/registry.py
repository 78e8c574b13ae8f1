"""Problems by name: register, find, make.

An id reads `[namespace/]model-task-subspace-d<dimension>-v<version>`; `@k` behind it is instance k, another draw of
the search examples and of a random basis. The version goes up whenever the numbers change.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np

from llm_problem.problem import Problem
from llm_problem.spec import ProblemSpec

_ID = re.compile(r"(?:[a-z0-9_]+/)?[a-z0-9][a-z0-9.]*(?:-[a-z0-9.]+)*-d[0-9]+-v[0-9]+")
_specs: dict[str, Callable[[], ProblemSpec]] = {}  # of `register`


def register(id: str, spec: ProblemSpec | Callable[[], ProblemSpec]) -> None:
    """Give a problem a name.

    Args:
        id: see above; new.
        spec: the description, or a function that makes it without loading anything heavy; called when the problem
            is asked for.

    Raises:
        ValueError: an id of another form, or one that is taken.
        TypeError: neither a description nor a function.
    """
    if not isinstance(id, str):
        raise TypeError(f"an id must be a string, got {type(id).__name__}")
    if not _ID.fullmatch(id):
        raise ValueError(f"an id must read [namespace/]model-task-subspace-d<dimension>-v<version>, got {id!r}")
    if id in _all():
        raise ValueError(f"{id!r} is registered already: a problem whose numbers change gets a new version")
    if isinstance(spec, ProblemSpec):
        given = spec
        _specs[id] = lambda: given
    elif callable(spec) and not isinstance(spec, Problem):
        _specs[id] = spec
    else:
        raise TypeError(f"a ProblemSpec, or a function that makes one, was expected, got {type(spec).__name__}")


def _all() -> dict[str, Callable[[], ProblemSpec]]:
    """What makes each description, by id: the package's own problems and those that were registered."""
    from llm_problem.suites import named

    return named.problems() | _specs


def list_problems(pattern: str = "*") -> list[str]:
    """The registered ids that match a pattern with `*` and `?`, sorted."""
    return sorted(id for id in _all() if fnmatchcase(id, pattern))


def get_spec(id: str, instance: int = 0) -> ProblemSpec:
    """The description of a registered problem; "…@3" is the same as instance=3.

    Raises:
        ValueError: an unknown id (with the nearest ones), an instance that is no non-negative integer.
    """
    if not isinstance(id, str):
        raise TypeError(f"a problem's id must be a string, got {type(id).__name__}; a spec goes to Problem.from_spec")
    name, at, number = id.partition("@")
    if at:
        if not number.isdecimal() or instance:
            raise ValueError(f"the instance in {id!r} must be one non-negative integer behind the @")
        instance = int(number)
    if isinstance(instance, bool) or not isinstance(instance, (int, np.integer)) or instance < 0:
        raise ValueError(f"instance must be a non-negative integer, got {instance!r}")
    specs = _all()
    if name not in specs:
        near = difflib.get_close_matches(name, specs, n=3, cutoff=0.5)
        raise ValueError(
            f"unknown problem {name!r}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; `llm-problem list` shows all")
        )
    spec = specs[name]()
    tokens = None if instance else spec.tokens  # another seed draws other examples
    return dataclasses.replace(spec, id=name, instance=int(instance), seed=spec.seed + int(instance), tokens=tokens)


def make(id: str, instance: int = 0, *, device: str = "cpu") -> Problem:
    """The registered problem, loaded and ready; errors as for `get_spec`."""
    return Problem.from_spec(get_spec(id, instance), device=device)
