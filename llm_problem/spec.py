"""The description of a problem: frozen, JSON and back, with a fingerprint.

Whoever has the description can rebuild the problem: a worker process, a colleague, next year's you.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_problem.forgetting import default_other_task
from llm_problem.models.loading import DTYPES
from llm_problem.quantities import Pairs, checked_names, checked_pairs
from llm_problem.subspaces import SUBSPACES, Subspace
from llm_problem.tasks import TASKS, Data, Scorer, Task

FORMAT = 1
_LEFT_OUT_WHERE_EMPTY = ("regularisation", "constraints", "neutral_text", "other_task", "tokens")  # in to_dict
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ProblemSpec:
    """Everything that decides the value of f(x).

    Args:
        model: a name, directory or hub id (see `llm_problem.models.load_model`).
        task, subspace: their descriptions.
        objectives: what is minimised, names that the task offers, "drift", "forgetting" or "norm" (see
            `llm_problem.quantities`); one for a single-objective problem.
        seed: draws the search examples and a random basis.
        minibatch: examples of a numbered minibatch (`evaluate(X, sample=k)`), None where there are none.
        dtype: of the matrix products that are run for each candidate ("float32", "bfloat16").
        evaluator: "auto", "serial" or "replay"; their losses agree to about 1e-6 nats at x = 0 and 1e-5
            some units from it, which is what single precision rounds.
        bound: the search box is [−bound, bound] in every coordinate.
        penalty: what optimizers are told where the loss is not finite.
        id: the registered name, or None.
        instance: variation k of a registered problem; part of its id.
        units: factors that multiply the parts of x before the subspace sees them, one for each of its blocks; None has
            them measured when a problem is built (see `llm_problem.calibration`), whose own description then holds
            them. Set it to None again in a copy that changes the model, the task or the subspace.
        regularisation: what is added to the first objective, weight by quantity, sorted by name.
        constraints: what is limited, largest value by quantity, sorted by name.
        neutral_text: what drift is read on; None where nothing needs it, else the embedded prose by default.
        other_task: the task whose loss forgetting is read on; None where nothing needs it, else language modelling on
            the embedded prose by default.
        tokens: sha256 (64 hex digits) of the tokens that the search examples become, by which a rebuilt problem knows
            that tokenizer and chat template are those that it was described with. None has it filled in when a problem
            is built; set it to None again in a copy that changes the model, the task, the seed or a prompt.
    """

    model: str
    task: Task
    subspace: Subspace
    objectives: tuple[str, ...] = ("loss",)
    seed: int = 0
    minibatch: int | None = None
    dtype: str = "float32"
    evaluator: str = "auto"
    bound: float = 5.0
    penalty: float = 1e6
    id: str | None = None
    instance: int = 0
    units: tuple[float, ...] | None = None
    regularisation: Pairs = ()
    constraints: Pairs = ()
    neutral_text: Data | None = None
    other_task: Task | None = None
    tokens: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(f"task must be a task such as lp.tasks.Classification(…), got {type(self.task).__name__}")
        if not isinstance(self.subspace, Subspace):
            raise TypeError(
                f"subspace must be a subspace such as lp.subspaces.LoRAXS(…), got {type(self.subspace).__name__}"
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, (int, np.integer)) or self.seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {self.seed!r}")
        object.__setattr__(self, "seed", int(self.seed))  # a numpy integer would not survive JSON
        object.__setattr__(self, "objectives", checked_names(self.objectives, self.task))
        for name in ("regularisation", "constraints"):
            object.__setattr__(self, name, checked_pairs(name, getattr(self, name), self.task))
        if self.neutral_text is not None or "drift" in self.quantities:
            text = "embedded:prose" if self.neutral_text is None else self.neutral_text
            object.__setattr__(self, "neutral_text", Data.of(text))
        if self.other_task is None and "forgetting" in self.quantities:
            object.__setattr__(self, "other_task", default_other_task())
        if self.other_task is not None:
            _check_other(self.other_task)
        if self.minibatch is not None and (
            isinstance(self.minibatch, bool) or not isinstance(self.minibatch, (int, np.integer)) or self.minibatch < 1
        ):
            raise ValueError(f"minibatch must be an integer of at least 1 example, or None, got {self.minibatch!r}")
        object.__setattr__(self, "minibatch", None if self.minibatch is None else int(self.minibatch))
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if not 0 < self.bound < float("inf"):
            raise ValueError(f"bound must be positive and finite, got {self.bound!r}")
        if not abs(self.penalty) < float("inf"):
            raise ValueError(f"penalty must be finite, got {self.penalty!r}")
        if self.units is not None:
            object.__setattr__(self, "units", _checked_units(self.units))
        if self.tokens is not None and not (isinstance(self.tokens, str) and _SHA256.fullmatch(self.tokens)):
            raise ValueError(f"tokens must be a sha256 of 64 hex digits, or None, got {self.tokens!r}")

    @property
    def minimised(self) -> frozenset[str]:
        """The quantities that the objectives are made of."""
        return frozenset((*self.objectives, *dict(self.regularisation)))

    @property
    def quantities(self) -> frozenset[str]:
        """Those, and what is limited."""
        return self.minimised | dict(self.constraints).keys()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What is asked, and the other task where there is one."""
        return (self.task,) if self.other_task is None else (self.task, self.other_task)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        fields = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        for name in _LEFT_OUT_WHERE_EMPTY:
            if not fields[name]:
                del fields[name]  # as descriptions were before there was one
        return {
            "format": FORMAT,
            **fields,
            "task": _plain(self.task),
            "subspace": _plain(self.subspace),
        }

    def to_json(self) -> str:
        """As JSON text; `from_json` reads it back to an equal description.

        Raises:
            ValueError: the task calls a function that no other process could find.
        """
        for nameless in filter(None, (task.nameless for task in self.tasks)):
            raise ValueError(
                f"a description cannot say which function {nameless} is: define it with def at the top of a "
                "module, from where it can be imported"
            )
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ProblemSpec:
        """From what `to_dict` gave.

        Raises:
            ValueError: another format, an unknown or missing key, an unknown task or subspace.
        """
        if not isinstance(values, dict):
            raise ValueError(f"a problem description must be a JSON object, got {type(values).__name__}")
        values = dict(values)
        if (found := values.pop("format", None)) != FORMAT:
            raise ValueError(f"a problem description of format {FORMAT} was expected, got format {found!r}")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown keys in the problem description: {', '.join(sorted(unknown))}")
        if missing := {"model", "task", "subspace"} - set(values):
            raise ValueError(f"missing keys in the problem description: {', '.join(sorted(missing))}")
        values["task"] = _build(TASKS, "task", values["task"])
        values["subspace"] = _build(SUBSPACES, "subspace", values["subspace"])
        if "neutral_text" in values:
            if not _is_data(values["neutral_text"]):
                raise ValueError("the neutral_text of a problem description must have source, sha256 and records")
            values["neutral_text"] = _frozen(values["neutral_text"])
        if "other_task" in values:
            values["other_task"] = _build(TASKS, "other task", values["other_task"])
        return cls(**values)

    @classmethod
    def of(cls, description: ProblemSpec | str | dict[str, Any]) -> ProblemSpec:
        """A description as it is, from JSON text or from what `to_dict` gave.

        Raises:
            TypeError: something else.
            ValueError: as for `from_dict`.
        """
        if isinstance(description, cls):
            return description
        if isinstance(description, str):
            return cls.from_json(description)
        if isinstance(description, dict):
            return cls.from_dict(description)
        raise TypeError(
            "a description of a problem was expected (problem.spec, or what its to_json or to_dict gave), got "
            f"{type(description).__name__}"
        )

    @classmethod
    def from_json(cls, text: str) -> ProblemSpec:
        """From what `to_json` gave; errors as for `from_dict`."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"a problem description must be JSON: {error}") from None
        return cls.from_dict(values)

    def fingerprint(self, model_identity: str) -> str:
        """sha256 (64 hex digits) over all that decides f, for a model with this identity.

        Neither the id nor the folder a file lies in counts: the same problem under another name is the same problem.
        `tokens` count where a chat template makes them, which is no part of data or model.

        Raises:
            ValueError: the subspace names models whose contents are not known before it is bound.
        """
        values = self.to_dict()
        unread = [
            name for name, by in (("neutral_text", "drift"), ("other_task", "forgetting")) if by not in self.quantities
        ]
        chats = any(getattr(task, "chat", False) for task in self.tasks)
        for name in ("id", "instance", *unread, *(() if chats else ("tokens",))):
            values.pop(name, None)
        values["model"] = model_identity
        canonical = json.dumps(_without_paths(values), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def basis_identity(self, model_identity: str) -> str:
        """sha256 (64 hex digits) over what decides the subspace's basis, for a model with this identity."""
        values = {"subspace": _without_paths(_plain(self.subspace)), "seed": self.seed, "model": model_identity}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_other(task: Any) -> None:
    if not isinstance(task, Task):
        raise TypeError(f"other_task must be a task such as lp.tasks.LanguageModelling(…), got {type(task).__name__}")
    if "loss" not in task.objectives:
        raise ValueError("forgetting is a loss on the other task, and this one has none: it needs references")


def _checked_units(units: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(unit) for unit in units)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or isinstance(units, str) or not all(0 < unit < float("inf") for unit in numbers):
        raise ValueError(f"units must be positive and finite numbers, or None to have them measured, got {units!r}")
    return numbers


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        added = value.added if isinstance(value, Task) else ("format",) if isinstance(value, Data) else ()
        for field in dataclasses.fields(value):
            if field.name in added and getattr(value, field.name) == field.default:
                del plain[field.name]  # as descriptions were before there was one
        return {"kind": value.kind, **plain} if isinstance(value, (Task, Subspace)) else plain
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _build(registry: dict[str, Any], what: str, values: dict[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"the {what} of a problem description must be a JSON object, got {type(values).__name__}")
    values = dict(values)
    kind = values.pop("kind", None)
    if kind not in registry:
        raise ValueError(f"unknown {what} {kind!r}: there are {', '.join(sorted(registry))}")
    cls = registry[kind]
    fields = dataclasses.fields(cls)
    if unknown := set(values) - {f.name for f in fields}:
        raise ValueError(f"unknown keys of {what} {kind!r}: {', '.join(sorted(unknown))}")
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if missing := required - set(values):
        raise ValueError(f"missing keys of {what} {kind!r}: {', '.join(sorted(missing))}")
    return cls(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    """JSON values as the descriptions hold them: lists as tuples, descriptions of data and subspaces as such."""
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict) and "kind" in value:
        return _build(SUBSPACES, "subspace", value)
    if _is_data(value):
        return Data(value["source"], value["sha256"], _frozen(value["records"]), value.get("format"))
    if isinstance(value, dict) and set(value) == {"function", "sha256"}:
        return Scorer(**value)  # named, not imported: a description runs no code
    return value


def _is_data(value: Any) -> bool:
    return isinstance(value, dict) and set(value) - {"format"} == {"source", "sha256", "records"}


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        if _is_data(value) or set(value) == {"source", "sha256"}:  # adapters and models to mix
            if value["sha256"] is None:
                raise ValueError(
                    f"what is in {value['source']} is known once the subspace is bound: ask a Problem for its spec or "
                    "fingerprint"
                )
            return {"sha256": value["sha256"]}  # the same bytes give the named columns in one format only
        return {name: _without_paths(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return value
