"""A study's folder: what was asked for, and what came of each run.

study.json                                       the study, its problems' descriptions, versions
problems/<problem>.json                          f(0), dimension, unit, metrics of the pretrained model, targets
runs/<problem>/<optimizer>/seed-<seed>.sqlite    every evaluation (`llm_problem.records`)
runs/<problem>/<optimizer>/seed-<seed>.json      what came of the run, once it has ended
report/                                          what `llm-problem report` makes of it

Of an optimizer's points the best on the way are kept, and the hashes of the others: a run repeats from its seed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llm_problem.harmless import safe_name
from llm_problem.study.config import Competitor, Study
from llm_problem.study.folder import finite_json
from llm_problem.suites.suite import Entry

# What a study cannot change once it has begun; optimizers, problems, instances and seeds may come and go.
FIXED = ("budget", "policy")


@dataclass(frozen=True)
class Run:
    """One run that a study asks for."""

    problem: Entry
    optimizer: Competitor
    seed: int

    def __str__(self) -> str:
        return f"{self.optimizer.label} on {self.problem.name}, seed {self.seed}"


@dataclass
class Ended:
    """What came of a run.

    Attributes:
        problem, optimizer, seed: which; the optimizer by its label.
        status: "finished" or "failed".
        error: what a failed run raised.
        stop_reason: why a finished one ended.
        evaluations: spent.
        best_loss, loss: of the best point seen and of the recommended one; None where there is none.
        last_loss: of the last evaluation; None where it has none.
        non_finite: evaluations without a finite loss.
        improvements: (evaluation, loss) of each that was better than all before it.
        held_out: split → metrics of the recommended point.
        gradients: whether the optimizer was given gradients: a reference, and no competitor.
        seconds: of the search.
    """

    problem: str
    optimizer: str
    seed: int
    status: str
    error: str | None = None
    stop_reason: str | None = None
    evaluations: int = 0
    best_loss: float | None = None
    loss: float | None = None
    last_loss: float | None = None
    non_finite: int = 0
    improvements: list[tuple[int, float]] = field(default_factory=list)
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    gradients: bool = False
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        return self.status == "finished"


class StudyFolder:
    """Reads and writes the folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def study_file(self) -> Path:
        return self.path / "study.json"

    def begin(self, study: Study, versions: Mapping[str, Any]) -> None:
        """Write down what is asked for, or see that the folder is of the same study.

        Optimizers and problems that were left out meanwhile, and come again, have to be the same, too.

        Raises:
            FileExistsError: the folder holds something else.
            ValueError: it is of a study with another budget or policy, or something in it has the name of another.
        """
        wanted = study.to_dict()
        if self.study_file.is_file():
            before = self._study_values()
            for key in FIXED:
                if before[key] != wanted[key]:
                    raise ValueError(
                        f"{self.path} is of a study with {key} {before[key]}, not {wanted[key]}: give another --out"
                    )
            seen = _seen(before)
            for label, optimizer in _seen(wanted)["optimizers"].items():
                if seen["optimizers"].setdefault(label, optimizer) != optimizer:
                    raise ValueError(
                        f"{label!r} was another optimizer, or had other options, when runs of it were begun in "
                        f"{self.path}: give this one another label"
                    )
            for name, spec in _seen(wanted)["problems"].items():
                if seen["problems"].setdefault(name, spec) != spec:
                    raise ValueError(f"{name} was another problem when {self.path} was begun")
        elif self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(f"{self.path} exists already and holds no study: choose another --out")
        else:
            seen = _seen(wanted)
        self.write(self.study_file, {**wanted, "seen": seen, "versions": dict(versions)})

    def study(self) -> Study:
        """What was asked for.

        Raises:
            ValueError: this is no folder of a study.
        """
        return Study.from_json_dict(self._study_values())

    def versions(self) -> dict[str, Any]:
        """Of the libraries that ran it last."""
        return self._study_values().get("versions", {})

    def _study_values(self) -> dict[str, Any]:
        try:
            return json.loads(self.study_file.read_text(encoding="utf-8"))
        except OSError:
            raise ValueError(f"{self.path} is no folder of a study: it has no study.json") from None
        except ValueError as error:
            raise ValueError(f"{self.study_file} cannot be read: {error}") from None

    def record(self, run: Run) -> Path:
        """Where the run's evaluations are recorded."""
        folder = self.path / "runs" / safe_name(run.problem.name) / safe_name(run.optimizer.label)
        return folder / f"seed-{run.seed}.sqlite"

    def ended(self, run: Run) -> Ended | None:
        """What came of the run; None where it has not ended."""
        file = self.record(run).with_suffix(".json")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{file} cannot be read: {error}; without it the run goes on from its record") from None
        found = Ended(**values)
        found.improvements = [(int(number), float(loss)) for number, loss in found.improvements]
        return found

    def write_ended(self, run: Run, ended: Ended) -> None:
        self.write(self.record(run).with_suffix(".json"), finite_json(asdict(ended)))

    def problem(self, entry: Entry) -> dict[str, Any] | None:
        """What is known of a problem since a run made it; None before."""
        file = self._problem_file(entry)
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def write_problem(self, entry: Entry, facts: Mapping[str, Any]) -> None:
        self.write(self._problem_file(entry), finite_json(facts))

    def _problem_file(self, entry: Entry) -> Path:
        return self.path / "problems" / f"{safe_name(entry.name)}.json"

    def write(self, path: Path, values: Any) -> None:
        """JSON; the whole file or none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)


def runs_of(study: Study) -> Iterator[Run]:
    """Every run that a study asks for: problem by problem, seed by seed, optimizer by optimizer."""
    for entry in study.problems:
        for seed in study.seeds:
            for optimizer in study.optimizers:
                yield Run(entry, optimizer, seed)


def _name(spec: Mapping[str, Any]) -> str:
    return f"{spec['id']}@{spec['instance']}" if spec["instance"] else str(spec["id"])


def _seen(values: Mapping[str, Any]) -> dict[str, Any]:
    """Every optimizer by its label and every problem by its name that a study has had so far."""
    earlier = values.get("seen", {"optimizers": {}, "problems": {}})
    optimizers = {each["label"]: {"name": each["name"], "options": each["options"]} for each in values["optimizers"]}
    problems = {_name(each["spec"]): each["spec"] for each in values["problems"]}
    return {"optimizers": {**earlier["optimizers"], **optimizers}, "problems": {**earlier["problems"], **problems}}
