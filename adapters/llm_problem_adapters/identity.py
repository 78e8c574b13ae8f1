"""What was run, as JSON values: all that decides a run's trajectory, and the versions it was begun with."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np

from llm_problem.installed import version

LIBRARIES = ("llm-problem", "numpy", "scipy", "torch", "transformers", "nevergrad", "pymoo", "cma", "optuna", "cmaes")

# What must be the same for a run to go on.
COMPARED = (
    "problem", "optimizer", "horizon", "seed", "batch_size", "start_at_x0", "race", "generalisation", "errors",
    "dimension", "constraints", "space",
)  # fmt: skip


def identity_of(
    problem: Any, optimizer: Any, name: str, options: Mapping[str, Any], settings: Mapping[str, Any], **rest: Any
) -> dict[str, Any]:
    """The identity of a run.

    Args:
        problem: as `minimize` takes it.
        optimizer: as `minimize` was given it.
        name: of the optimizer.
        options: of the optimizer, as far as they were given apart.
        settings: what the optimizer is set up with.
        **rest: budget, race, generalisation, errors.
    """
    given = options if isinstance(optimizer, str) else {**_own_settings(optimizer), **options}
    space = hashlib.sha256()
    low, high = (-np.inf, np.inf) if settings["bounds"] is None else settings["bounds"]
    for value in (settings["x0"], low, high, settings["sigma"]):
        space.update(np.broadcast_to(np.asarray(value, dtype=np.float64), (problem.dimension,)).tobytes())
    return {
        "problem": _problem(problem),
        "spec": _spec(problem),
        "dimension": int(problem.dimension),
        "constraints": len(getattr(problem, "constraints", ())),
        "space": space.hexdigest(),
        "optimizer": {"name": name, "by_name": isinstance(optimizer, str), "options": _plain(dict(given))},
        **{key: _plain(settings[key]) for key in ("horizon", "batch_size", "seed", "start_at_x0")},
        **{key: _plain(value) for key, value in rest.items()},
        "versions": versions(),
    }


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What keeps the wanted run from being the recorded one, in words."""
    return [
        f"{key} {json.dumps(recorded.get(key))} and {json.dumps(wanted.get(key))}"
        for key in COMPARED
        if recorded.get(key) != wanted.get(key)
    ]


def versions() -> dict[str, str | None]:
    """Library → installed version, None where there is none."""
    return {"python": platform.python_version(), **{library: version(library) for library in LIBRARIES}}


def versions_that_differ(recorded: Mapping[str, Any]) -> list[str]:
    """ "numpy 2.1.0, here 2.2.1" for each library that is another one than when the run began."""
    before = recorded.get("versions", {})
    return [
        f"{library} {before.get(library)}, here {here}"
        for library, here in versions().items()
        if before.get(library) != here
    ]


def _problem(problem: Any) -> dict[str, Any]:
    named = {"name": str(getattr(problem, "name", type(problem).__qualname__))}
    fingerprint = getattr(problem, "fingerprint", None)
    return {**named, "fingerprint": fingerprint} if isinstance(fingerprint, str) else named


def _spec(problem: Any) -> dict[str, Any] | None:
    """The description that rebuilds the problem, where there is one."""
    spec = getattr(problem, "spec", None)
    try:
        return None if spec is None else json.loads(spec.to_json())
    except (AttributeError, ValueError, TypeError):  # it calls a function that no other process finds
        return None


def _own_settings(optimizer: Any) -> dict[str, Any]:
    """Of an optimizer that was configured by hand: its plain settings."""
    if isinstance(optimizer, type) or not hasattr(optimizer, "__dict__"):
        return {}
    simple = (bool, int, float, str, type(None), dict)
    return {k: v for k, v in sorted(vars(optimizer).items()) if isinstance(v, simple) and not k.startswith("_")}


def _plain(value: Any) -> Any:
    """As JSON values; of what has none, its type."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}"}
