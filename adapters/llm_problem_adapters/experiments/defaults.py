"""`python -m llm_problem_adapters.experiments.defaults`: do the defaults of our own optimizers stand?

Each optimizer at its defaults, and with one option after another changed, on named problems. A setting's score is the
fall of the loss that it reaches (median of the seeds) over the largest that any setting of the same optimizer reaches
on that problem, averaged over the problems. Defaults stand where no setting's score is ahead by more than AHEAD.
Those that are given gradients are told apart by smaller budgets, `--budget 100`: with more they all find the optimum.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

import llm_problem as lp
from llm_problem.study.console import table_console
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.minimize import minimize

AHEAD = 0.1
BUDGET = 500
PROBLEMS = ("tiny-bert-prose-random-d32-v1", "tiny-bert-sentiment-lora-xs-d128-v1")
CHANGES: dict[str, tuple[dict[str, Any], ...]] = {
    "differential-evolution": (
        {"strategy": "rand/1/bin"},
        {"strategy": "current-to-best/1/bin"},
        {"crossover": 0.2},
        {"crossover": 0.9},
        {"population": 10},
    ),
    "evolution-strategy": ({"first_move": 0.3}, {"first_move": 3.0}),
    "genetic-algorithm-improved": (
        {"crossover": "simulated-binary"},
        {"crossover": "uniform"},
        {"mutation": 0.1},
        {"population": 24, "selected": 6},
        {"patience": None},
    ),
    "natural-evolution-strategy": ({"antithetic": True}, {"population": 30}, {"step": 0.3}),
    "spsa": ({"gain": 0.05}, {"gain": 0.5}, {"width": 0.3}, {"decay": False}, {"normalised": False}),
    "adam": ({"learning_rate": 0.1}, {"learning_rate": 1.0}),
    "hybrid": ({"gradient_steps": 30}, {"scale": 1.0}),
}
"""What is changed, one setting after another."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print the table; 0 where the defaults stand."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem_adapters.experiments.defaults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="+", choices=list(CHANGES), default=list(CHANGES), metavar="NAME")
    parser.add_argument("--out", help="file of the runs; goes on where it was")
    options = parser.parse_args(arguments)
    records = Records(options.out, ("problem", "fingerprint", "optimizer", "options", "budget", "seed"))
    falls: dict[str, dict[str, list[float]]] = {name: {} for name in options.optimizers}
    for id in options.problems:
        problem = lp.make(id)
        for name in options.optimizers:
            for change in ({}, *CHANGES[name]):
                runs = [run(records, problem, name, change, options.budget, seed) for seed in range(options.seeds)]
                fall = float(np.median([r["start"] - r["loss"] for r in runs]))
                falls[name].setdefault(setting(change), []).append(fall)
    return 1 if print_table(falls, options.problems) else 0


def run(
    records: Records, problem: lp.Problem, optimizer: str, change: Mapping[str, Any], budget: int, seed: int
) -> Record:
    """One run: f(0) and the recommended point's loss."""
    identity = {
        "problem": problem.name,
        "fingerprint": problem.fingerprint,
        "optimizer": optimizer,
        "options": json.dumps(change, sort_keys=True),
        "budget": budget,
        "seed": seed,
    }

    def make() -> Record:
        result = minimize(problem, optimizer, budget=budget, seed=seed, **change)
        return {"start": problem(problem.x0), "loss": result.loss}

    return records.run(identity, make)


def setting(change: Mapping[str, Any]) -> str:
    return ", ".join(f"{option} {value}" for option, value in change.items()) or "defaults"


def scores(falls: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Setting → share of the largest fall, mean of the problems; from the falls on each problem by setting."""
    table = np.array(list(falls.values()))  # (settings, problems)
    shares = (table / table.max(axis=0)).mean(axis=1)
    return dict(zip(falls, shares.tolist(), strict=True))


def print_table(falls: Mapping[str, Mapping[str, Sequence[float]]], problems: Sequence[str]) -> set[str]:
    """Median falls and scores; returns the optimizers with a setting that is ahead of the defaults."""
    table = Table(title="f(0) − f(x), median of the seeds, nats, and the share of the largest of each optimizer")
    table.add_column("optimizer", no_wrap=True)
    table.add_column("setting", no_wrap=True)
    for id in (*problems, "score"):
        table.add_column(id.removesuffix("-v1"), justify="right", overflow="fold")
    table.add_column("")
    fallen = set()
    for name, settings in falls.items():
        score = scores(settings)
        for row, (what, values) in enumerate(settings.items()):
            ahead = score[what] > score["defaults"] + AHEAD
            if ahead:
                fallen.add(name)
            cells = [f"{value:.3f}" for value in (*values, score[what])]
            last = row + 1 == len(settings)
            table.add_row("" if row else name, what, *cells, "ahead" if ahead else "", end_section=last)
    table_console().print(table)
    return fallen


if __name__ == "__main__":
    sys.exit(main())
