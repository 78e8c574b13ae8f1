"""`python -m llm_problem_adapters.nevergrad_benchmark PLAN` where cv2 and gym are not installed: what
`python -m nevergrad.benchmark PLAN` does, with the same options and columns.

Plans are those of `nevergrad_plans` and of the files that `--imports` names, whose functions register themselves:

    from llm_problem_adapters.nevergrad_experiments import experiments

    @experiments().registry.register
    def my_plan(seed=None): ...
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from llm_problem_adapters.nevergrad_experiments import experiments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a plan and write its table; returns the exit code (1 where an experiment failed, 2 for bad input)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    registry = experiments().registry
    if "llm_problem_tiny" not in registry:
        importlib.import_module("llm_problem_adapters.nevergrad_plans")
    for file in options.imports.split(",") if options.imports else ():
        if not Path(file).is_file():
            parser.error(f"there is no file {file}")
        _import(Path(file))
    if options.experiment not in registry:
        parser.error(f"unknown experiment plan {options.experiment!r}: there are {', '.join(sorted(registry))}")
    path = Path(options.output or f"{options.experiment}.csv")
    before = pd.read_csv(path) if path.exists() else None
    rows: list[dict[str, Any]] = []
    for experiment in _planned(registry[options.experiment], options.seed, options.repetitions, options.cap_index):
        if experiment.seed is not None:
            experiment.seed = int(experiment.seed)  # Python's random.seed refuses numpy's, which seed generators yield
        rows.append(experiment.run())
        _write(rows, before, path)
        print(f"{len(rows)}: {experiment.optimsettings} on {experiment.function}: {rows[-1]['loss']}", flush=True)
    print(f"{len(rows)} experiments in {path}")
    return int(any(row["error"] for row in rows))


def _planned(plan: Any, seed: int | None, repetitions: int, most: int | None) -> Iterator[Any]:
    """The experiments of each repetition, whose seed is one more than that of the one before."""
    for k in range(repetitions):
        yield from itertools.islice(plan() if seed is None else plan(seed=seed + k), most)


def _write(rows: list[dict[str, Any]], before: pd.DataFrame | None, path: Path) -> None:
    """All rows so far behind those that the file had; whoever reads sees the old file or the new one."""
    table = pd.DataFrame(rows)
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    (table if before is None else pd.concat([before, table], sort=False)).to_csv(part, index=False)
    part.replace(path)


def _import(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"nevergrad_additional_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.nevergrad_benchmark",
        description="Run an experiment plan of Nevergrad's registry and write a table as its benchmark does.",
    )
    parser.add_argument("experiment", help="the name of a registered plan, such as llm_problem_tiny")
    parser.add_argument("--seed", type=int, help="makes the plan repeat")
    parser.add_argument("--cap_index", type=_count, help="stop a repetition after that many experiments")
    parser.add_argument("--repetitions", type=_count, default=1, help="runs of the plan, each with the next seed")
    parser.add_argument("--output", help="the table, PLAN.csv by default; rows are added to one that exists")
    parser.add_argument("--imports", help="Python files with more plans or optimizers, with commas between them")
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
