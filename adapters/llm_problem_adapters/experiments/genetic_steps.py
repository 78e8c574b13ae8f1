"""`python -m llm_problem_adapters.experiments.genetic_steps`: from the document's genetic algorithm to ours.

Each row has one change more than the row above it, the last one is `GeneticAlgorithm()` itself; then each change alone.
A run's loss is that of the point it recommends; a table has the medians of the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem_adapters.experiments.markdown import markdown
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.genetic_algorithm import GeneticAlgorithm
from llm_problem_adapters.minimize import minimize

DOCUMENT: dict[str, Any] = {
    "crossover": "single-point",
    "mutation": 0.01,
    "final_mutation": None,
    "elitism": 0,
    "with_x0": False,
    "answer": "last-generation",
}
CHANGES: dict[str, dict[str, Any]] = {
    "x0 is an individual": {"with_x0": True},
    "the best one is kept, and is the answer": {"elitism": 1, "answer": "best"},
    "uniform crossover": {"crossover": "uniform"},
    "mutation from 0.5 to 0.05": {"mutation": 0.5, "final_mutation": 0.05},
}
PROBLEMS = (
    "tiny-gpt2-prose-lora-xs-d32-v1",
    "tiny-gpt2-prose-lora-xs-d512-v1",
    "tiny-gpt2-sentiment-lora-xs-d128-v1",
    "smollm2-135m-sentiment-lora-xs-d32-v1",
)
KEY = ("problem", "fingerprint", "options", "budget", "seed")


def settings() -> dict[str, dict[str, Any]]:
    """Row of the table → options of `GeneticAlgorithm`."""
    rows, options = {"the document's": DOCUMENT}, DOCUMENT
    for name, change in CHANGES.items():
        options = {**options, **change}
        rows[f"+ {name}"] = options
    return rows | {f"only: {name}": {**DOCUMENT, **change} for name, change in list(CHANGES.items())[1:]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.genetic_steps",
        description="From the document's genetic algorithm to ours, step by step.",
    )
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), metavar="ID")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file of the runs; goes on where it was")
    options = parser.parse_args(arguments)
    records = Records(options.out, KEY)
    columns = []
    for id in options.problems:
        problem = lp.make(id)
        columns.append(
            [
                [run(records, problem, setting, options.budget, seed) for seed in range(options.seeds)]
                for setting in settings().values()
            ]
        )
    header = ["", *(id.removesuffix("-v1") for id in options.problems)]
    start = ["f(0)", *(f"{column[0][0]['start']:.3f}" for column in columns)]
    rows = [
        [name, *(f"{np.median([r['loss'] for r in column[row]]):.3f}" for column in columns)]
        for row, name in enumerate(settings())
    ]
    print(markdown(header, [start, *rows], [column > 0 for column in range(len(header))]))
    return 0


def run(records: Records, problem: lp.Problem, options: dict[str, Any], budget: int, seed: int) -> Record:
    """One run: f(0) and the recommended point's loss."""

    def make() -> Record:
        result = minimize(problem, GeneticAlgorithm(**options), budget=budget, seed=seed)
        return {"start": problem(problem.x0), "loss": result.loss}

    values = (problem.name, problem.fingerprint[:16], json.dumps(options, sort_keys=True), budget, seed)
    return records.run(dict(zip(KEY, values, strict=True)), make)


if __name__ == "__main__":
    sys.exit(main())
