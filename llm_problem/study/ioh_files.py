"""Files that IOHanalyzer reads: the format of IOHexperimenter's Analyzer logger, from a study's runs.

<optimizer>/IOHprofiler_f<number>_<problem>.json              the runs and their best losses
<optimizer>/data_f<number>_<problem>/IOHprofiler_f<number>_DIM<d>.dat    evaluation and raw loss at each improvement

Format: https://iohprofiler.github.io/IOHanalyzer/data, as ioh 0.4.2 writes it. Points are not kept by a study: "x" is
empty. Instances of a problem are instances of one function; runs are in the order of instance and seed. iohinspector
0.0.8 reads numbers and dimensions of up to 65,535.
"""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from llm_problem.function_ids import FIRST, LAST, function_id
from llm_problem.harmless import safe_name
from llm_problem.study.results import Results
from llm_problem.study.runs import Ended

VERSION = "0.4.2"  # of ioh, whose files these are like


def write_ioh(results: Results, folder: Path) -> list[Path]:
    """Write a folder for each optimizer; returns the JSON files."""
    written = []
    entries = [entry for entry in results.study.problems if entry.name in results.problems]
    numbers = _numbers(sorted({str(entry.spec.id) for entry in entries}))
    for optimizer in results.optimizers:
        for name, group in groupby(entries, key=lambda entry: str(entry.spec.id)):
            runs = [
                (entry.spec.instance, run)
                for entry in group
                for run in results.of(entry.name, optimizer)
                if run.improvements
            ]
            if runs:
                dimension = results.facts[runs[0][1].problem]["dimension"]
                written.append(_write(folder / safe_name(optimizer), name, numbers[name], dimension, optimizer, runs))
    return written


def _numbers(names: list[str]) -> dict[str, int]:
    """Each one's number; where two have the same, the later one by name takes the next that is free."""
    found: dict[str, int] = {}
    for name in names:
        number = function_id(name)
        while number in found.values():
            number = FIRST if number == LAST else number + 1
        found[name] = number
    return found


def _write(
    folder: Path, problem: str, number: int, dimension: int, optimizer: str, runs: list[tuple[int, Ended]]
) -> Path:
    name = safe_name(problem).replace("/", "-")
    data = Path(f"data_f{number}_{name}") / f"IOHprofiler_f{number}_DIM{dimension}.dat"
    (folder / data).parent.mkdir(parents=True, exist_ok=True)
    with (folder / data).open("w", encoding="ascii", newline="\n") as file:
        for _, run in runs:
            file.write("evaluations raw_y\n")
            file.writelines(f"{evaluation} {loss:.10f}\n" for evaluation, loss in run.improvements)
            if run.improvements[-1][0] != run.evaluations:  # the logger ends a run with its last evaluation
                last = run.improvements[-1][1] if run.last_loss is None else run.last_loss
                file.write(f"{run.evaluations} {last:.10f}\n")
    summary: dict[str, Any] = {
        "version": VERSION,
        "suite": "llm_problem",
        "function_id": number,
        "function_name": name,
        "maximization": False,
        "algorithm": {"name": optimizer, "info": "llm_problem"},
        "attributes": ["evaluations", "raw_y"],
        "scenarios": [
            {
                "dimension": dimension,
                "path": data.as_posix(),
                "runs": [
                    {
                        "instance": instance,
                        "evals": run.evaluations,
                        "best": {"evals": run.improvements[-1][0], "y": run.improvements[-1][1], "x": []},
                    }
                    for instance, run in runs
                ],
            }
        ],
    }
    path = folder / f"IOHprofiler_f{number}_{name}.json"
    path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return path
