"""`python -m llm_problem_adapters.experiments.movement`: no runaway and no standstill at defaults.

Optimizers of Nevergrad, pymoo, pycma and ours at their defaults, on named problems: does the recommended point stay
inside the bounds, and does its loss fall below that of the pretrained model by more than its noise? The loss is
deterministic, so its noise is rounding: a fall counts from FALL nats on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

import llm_problem as lp
from llm_problem_adapters.experiments.markdown import markdown
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.minimize import minimize

FALL = 1e-3  # nats
BUDGET = 500
PROBLEMS = (
    "tiny-gpt2-prose-lora-xs-d32-v1",
    "tiny-gpt2-prose-random-d64-v1",
    "tiny-gpt2-sentiment-lora-xs-d128-v1",
    "tiny-bert-prose-random-d32-v1",
    "tiny-bert-sentiment-lora-xs-d128-v1",
)
OPTIMIZERS = (
    "cma",
    "differential-evolution",
    "evolution-strategy",
    "genetic-algorithm",
    "genetic-algorithm-improved",
    "natural-evolution-strategy",
    "particle-swarm",
    "random-search",
    "simulated-annealing",
    "spsa",
    "nevergrad:CMA",
    "nevergrad:DE",
    "nevergrad:NGOpt",
    "nevergrad:OnePlusOne",
    "nevergrad:PSO",
    "nevergrad:RandomSearch",
    "nevergrad:SPSA",
    "nevergrad:TBPSA",
    "nevergrad:TwoPointsDE",
    "pymoo:CMAES",
    "pymoo:DE",
    "pymoo:DIRECT",
    "pymoo:ES",
    "pymoo:GA",
    "pymoo:NelderMead",
    "pymoo:PSO",
    "pymoo:PatternSearch",
)
REASONS = {
    "nevergrad:SPSA": "its step of 1e-5 is written into it",
    "nevergrad:TBPSA": "its first generation of 4 d points must fit the budget",
    "pymoo:ES": "its steps begin at the box over √d, longer than any that gains, and it has two generations",
}
"""Why an optimizer may stand still."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print the table; 0 where all but those with a reason move."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem_adapters.experiments.movement", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS))
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS))
    parser.add_argument("--out", help="file of the runs; goes on where it was")
    options = parser.parse_args(arguments)
    records = Records(options.out, ("problem", "fingerprint", "optimizer", "budget", "seed"))
    runs: list[Record] = []
    for id in options.problems:
        problem = lp.make(id)
        for name in options.optimizers:
            for seed in range(options.seeds):
                runs.append(run(records, problem, name, options.budget, seed))
    text, failed = table(runs, options.problems, options.optimizers)
    print(text)
    return 1 if failed - set(REASONS) else 0


def run(records: Records, problem: lp.Problem, optimizer: str, budget: int, seed: int) -> Record:
    """One run: f(0), the recommended point's loss, and its largest coordinate over the bound."""

    def make() -> Record:
        result = minimize(problem, optimizer, budget=budget, seed=seed)
        largest = float(np.max(np.abs(result.x)) / problem.bounds[1][0])
        return {"start": problem(problem.x0), "loss": result.loss, "largest": largest}

    identity = {
        "problem": problem.name,
        "fingerprint": problem.fingerprint,
        "optimizer": optimizer,
        "budget": budget,
        "seed": seed,
    }
    return records.run(identity, make)


def table(runs: Sequence[Record], problems: Sequence[str], optimizers: Sequence[str]) -> tuple[str, set[str]]:
    """f(0) − f(x), the seeds' median, with the largest |x| over the bound in brackets; and who stood still or left."""
    rows, failed = [], set()
    for name in optimizers:
        cells, good = [], True
        for id in problems:
            mine = [r for r in runs if r["optimizer"] == name and r["problem"] == id]
            fall = float(np.median([r["start"] - r["loss"] for r in mine]))
            largest = max(r["largest"] for r in mine)
            good &= fall > FALL and largest <= 1
            cells.append(f"{fall:.3f} [{largest:.2f}]")
        if not good:
            failed.add(name)
        rows.append([name, *cells, "" if good else REASONS.get(name, "fails")])
    header = ["optimizer", *(id.removesuffix("-v1") for id in problems), "why not"]
    return markdown(header, rows, [False, *(True for _ in problems), False]), failed


if __name__ == "__main__":
    sys.exit(main())
