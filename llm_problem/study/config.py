"""What a study compares: optimizers × problems × instances × seeds, one budget, one policy for all of them.

name = "tiny"
optimizers = ["random-search", "cma", {name = "cma", label = "cma, 40 points", options = {popsize = 40}}]
problems = ["tiny-gpt2-prose-*", {suite = "tiny", pattern = "*agreement*"}, {model = "../my-model"}, {spec = "p.json"}]
instances = [0, 1]     # default [0]; a problem may name its own: "…-v1@3"
seeds = 15             # 1 to 15, or a list
budget = 1000          # evaluations of each run, x0 included

[policy]               # the same for every optimizer
start_at_x0 = true     # x = 0, the pretrained model, is evaluation one
restarts = false       # whether an optimizer that stops by itself is begun again until the budget is spent
batch_size = 16        # points proposed before any is told; left out, each algorithm's own
threads = 1            # of each run: values are the same to the bit for one machine and one number of threads
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llm_problem.harmless import printable
from llm_problem.registry import list_problems
from llm_problem.spec import ProblemSpec
from llm_problem.suites import get
from llm_problem.suites.suite import Entry, entry_of, unknown

KEYS = ("name", "optimizers", "problems", "instances", "seeds", "budget", "policy")
REQUIRED = ("optimizers", "problems", "seeds", "budget")
OPTIMIZER_KEYS = ("name", "label", "options")
PROBLEM_KEYS = ("suite", "model", "spec", "pattern")
LONGEST = 60  # characters of a label


@dataclass(frozen=True)
class Policy:
    """What holds for every run alike; see the module."""

    start_at_x0: bool = True
    restarts: bool = False
    batch_size: int | None = None
    threads: int = 1

    def sentence(self) -> str:
        """For a report."""
        batch = "as each algorithm has it" if self.batch_size is None else f"{self.batch_size} for all"
        return (
            f"Every run starts {'at' if self.start_at_x0 else 'about'} x = 0, the pretrained model"
            f"{', which is evaluation one' if self.start_at_x0 else ''}. An optimizer that stops by itself is "
            f"{'begun again, with another seed, until the budget is spent' if self.restarts else 'left at its best'}. "
            f"Points proposed before any is told: {batch}. Threads of a run: {self.threads}."
        )


@dataclass(frozen=True)
class Competitor:
    """An optimizer as a study runs it: its name for `make_optimizer`, what tables call it, its options."""

    name: str
    label: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A checked study; `from_toml` reads one."""

    name: str
    optimizers: tuple[Competitor, ...]
    problems: tuple[Entry, ...]
    seeds: tuple[int, ...]
    budget: int
    policy: Policy = Policy()

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Study:
        """Read a study file.

        Raises:
            ValueError: no such file, no TOML, an unknown or missing key or problem (with the nearest ones), something
                listed twice, a number out of range. Optimizers' names are checked by who runs them.
        """
        path = Path(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"cannot read the study file {path}: {error.strerror or error}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no TOML file: {error}") from None
        return cls.from_dict({"name": path.stem, **values}, folder=path.parent)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: str | os.PathLike[str] = ".") -> Study:
        """From what a study file holds; paths in it are relative to `folder`. Errors as for `from_toml`."""
        _require_keys("key of a study", values, KEYS)
        for key in REQUIRED:
            if key not in values:
                raise ValueError(f"a study needs {', '.join(REQUIRED)}; {key!r} is missing")
        policy = values.get("policy", {})
        if not isinstance(policy, Mapping):
            raise ValueError(f"policy must be a table, got {policy!r}")
        _require_keys("key of a study's policy", policy, tuple(asdict(Policy())))
        instances = _integers("instances", values.get("instances", [0]), 0)
        name = str(values.get("name", "study"))
        if not re.fullmatch(r"[\w .,()-]{1,80}", name) or not name.strip(". "):
            raise ValueError(f"name must be of 1 to 80 letters, digits, spaces and .,()-_, got {name!r}")
        return cls(
            name=name,
            optimizers=_competitors(values["optimizers"]),
            problems=_problems(values["problems"], instances, Path(folder)),
            seeds=_seeds(values["seeds"]),
            budget=_integer("budget", values["budget"], 1),
            policy=_policy(policy),
        )

    @property
    def runs(self) -> int:
        """How many there are."""
        return len(self.optimizers) * len(self.problems) * len(self.seeds)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, each problem's description included; `from_json_dict` reads it back."""
        return {
            "name": self.name,
            "optimizers": [{**asdict(o), "options": dict(o.options)} for o in self.optimizers],
            "problems": [
                {"task": e.task, "dimension": e.dimension, "spec": json.loads(e.spec.to_json())} for e in self.problems
            ],
            "seeds": list(self.seeds),
            "budget": self.budget,
            "policy": asdict(self.policy),
        }

    @classmethod
    def from_json_dict(cls, values: Mapping[str, Any]) -> Study:
        """From what `to_dict` gave."""
        return cls(
            name=values["name"],
            optimizers=tuple(Competitor(**each) for each in values["optimizers"]),
            problems=tuple(
                Entry(ProblemSpec.from_dict(each["spec"]), each["task"], each["dimension"])
                for each in values["problems"]
            ),
            seeds=tuple(values["seeds"]),
            budget=values["budget"],
            policy=Policy(**values["policy"]),
        )


def _competitors(values: Any) -> tuple[Competitor, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"optimizers must be a list of names or tables, got {values!r}")
    found = []
    for value in values:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise ValueError(f"an optimizer is a name, or a table with a name, label and options, got {value!r}")
        _require_keys("key of an optimizer", value, OPTIMIZER_KEYS)
        label, options = value.get("label", value["name"]), value.get("options", {})
        if not isinstance(label, str) or not 1 <= len(label) <= LONGEST or printable(label) != label or "\n" in label:
            raise ValueError(f"label must be of 1 to {LONGEST} printable characters, got {label!r}")
        if not isinstance(options, Mapping):
            raise ValueError(f"options of {label} must be a table, got {options!r}")
        found.append(Competitor(value["name"], label, dict(options)))
    _require_different("optimizer", [each.label for each in found], "; give one of them a label of its own")
    return tuple(found)


def _problems(values: Any, instances: Sequence[int], folder: Path) -> tuple[Entry, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"problems must be a list of ids, patterns or tables, got {values!r}")
    found: list[Entry] = []
    for value in values:
        if isinstance(value, str) and ("*" in value or "?" in value):
            ids = list_problems(value)
            if not ids:
                raise ValueError(f"no problem matches {value!r}; `llm-problem list` shows all")
            found += [entry_of(id, k) for id in ids for k in instances]
        elif isinstance(value, str):
            found += [entry_of(value)] if "@" in value else [entry_of(value, k) for k in instances]
        else:
            found += _from_table(value, instances, folder)
    _require_different("problem", [entry.name for entry in found])
    return tuple(found)


def _from_table(value: Any, instances: Sequence[int], folder: Path) -> list[Entry]:
    if not isinstance(value, Mapping) or len({"suite", "model", "spec"} & set(value)) != 1:
        raise ValueError(f"a problem is an id, a pattern, or a table with one of suite, model and spec, got {value!r}")
    _require_keys("key of a problem", value, PROBLEM_KEYS)
    if not all(isinstance(word, str) for word in value.values()):
        raise ValueError(f"suite, model, spec and pattern are texts, got {dict(value)!r}")
    if "spec" in value:
        return [_from_file(folder / value["spec"])]
    if "suite" in value:
        suite = get(value["suite"])
    else:
        model = value["model"]
        suite = get(
            "own", model=str(folder / model) if (folder / model).is_dir() else model, instances=max(instances) + 1
        )
    pattern = value.get("pattern", "*")
    entries = [entry for entry in suite.entries if fnmatchcase(str(entry.spec.id), pattern)]
    if not entries:
        raise ValueError(f"no problem of {suite!r} matches {pattern!r}")
    kept = {str(entry.spec.id): entry for entry in entries}
    if "suite" in value:
        return [entry_of(id, k) for id in kept for k in instances]
    return [entry for entry in entries if entry.spec.instance in instances]


def _from_file(path: Path) -> Entry:
    """A description that `problem.spec.to_json()` wrote; the file's name stands for an id where it has none."""
    try:
        spec = ProblemSpec.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the problem's description {path}: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no problem's description: {error}") from None
    return Entry(spec if spec.id is not None else replace(spec, id=path.stem), spec.task.kind, 0)


def _seeds(value: Any) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(1, _integer("seeds", value, 1) + 1))
    return _integers("seeds", value, 0)


def _policy(values: Mapping[str, Any]) -> Policy:
    for name in ("start_at_x0", "restarts"):
        if not isinstance(values.get(name, True), bool):
            raise ValueError(f"{name} must be true or false, got {values[name]!r}")
    for name in ("batch_size", "threads"):
        if values.get(name) is not None:
            _integer(name, values[name], 1)
    return Policy(**values)


def _integers(name: str, values: Any, least: int) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{name} must be a list of integers, got {values!r}")
    found = [_integer(name, value, least) for value in values]
    _require_different(f"number in {name}", found)
    return tuple(found)


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be {'an integer' if least else 'integers'} of at least {least}, got {value!r}")
    return value


def _require_keys(what: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known:
            raise unknown(what, key, known)


def _require_different(what: str, values: Sequence[Any], advice: str = "") -> None:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"the {what} {value!r} is listed twice{advice}")
