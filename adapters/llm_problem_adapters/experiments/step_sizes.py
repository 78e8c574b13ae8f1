"""Is one unit of x a good step? Optimizers at multiples of the default step, on named problems.

    python -m llm_problem_adapters.experiments.step_sizes [--quick] [--out FILE.jsonl] [--table]

Every optimizer is run at each multiple of the problem's sigma, with the bounds, which are ±5 sigma, multiplied alike.
A run's gain is f(0) less the loss of the point that it recommends; a pair of problem and optimizer is judged by the
medians of its gains over the seeds: the *share* of a step is its median gain over the best one among the steps. The
aim is a share of at least 0.90 of the default step on at least 90% of the pairs.

Each run is a line of FILE, and what stands there already is not run again, so that an interrupted experiment goes on
where it was. Lines also hold the KL divergence that a step moves predictions by (`llm_problem.calibration`), so that
the second table can say which amount would have been best.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.calibration import typical_kl
from llm_problem_adapters.experiments.step_size_tables import report
from llm_problem_adapters.minimize import minimize

STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
OPTIMIZERS = (
    "cma",
    "genetic-algorithm",
    "simulated-annealing",
    "particle-swarm",
    "nevergrad:OnePlusOne",
    "nevergrad:DE",
    "nevergrad:CMA",
    "nevergrad:PSO",
    "pymoo:DE",
    "pymoo:PSO",
)
PROBLEMS = (
    "tiny-bert-prose-lora-xs-d32-v1",
    "tiny-bert-prose-random-d32-v1",
    "tiny-bert-sentiment-lora-xs-d128-v1",
    "tiny-gpt2-prose-lora-xs-d32-v1",
    "tiny-gpt2-prose-lora-xs-d512-v1",
    "tiny-gpt2-prose-random-d64-v1",
    "tiny-gpt2-sentiment-lora-xs-d128-v1",
    "smollm2-135m-sentiment-lora-xs-d32-v1",
    "smollm2-135m-sentiment-lora-xs-d128-v1",
)
QUICK_PROBLEMS = PROBLEMS[:1] + PROBLEMS[3:4]
QUICK_OPTIMIZERS = ("cma", "simulated-annealing", "pymoo:DE")


class Stepped:
    """A problem in another unit: x is `step` times as far, sigma and bounds are the same numbers of the new unit."""

    def __init__(self, problem: lp.Problem, step: float) -> None:
        self.problem, self.step = problem, step
        self.dimension, self.x0, self.penalty = problem.dimension, problem.x0, problem.penalty
        self.bounds, self.sigma = problem.bounds, problem.sigma

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        return self.problem.evaluate(self.step * X)


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    problems: Sequence[str]
    optimizers: Sequence[str]
    seeds: int
    budget: int

    def runs(self, problem: str) -> Iterator[tuple[str, float, int]]:
        """(optimizer, step, seed), seed by seed, so that an unfinished experiment has something of everything."""
        for seed in range(self.seeds):
            for optimizer in self.optimizers:
                for step in STEPS:
                    yield optimizer, step, seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; returns the exit code."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    out = Path(options.out)
    lines = read(out)
    if not options.table:
        try:
            for line in run(plan, lines):
                append(out, line)
                lines.append(line)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on", file=sys.stderr)
    print(report([line for line in lines if line["budget"] == plan.budget]))
    return 0


def run(plan: Plan, done: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The lines that are not among those that are done, one after another."""
    known = {_key(line) for line in done}
    for id in plan.problems:
        fingerprint = lp.get_spec(id).fingerprint(id)  # of the description: a changed problem is run anew
        todo = [
            settings
            for settings in plan.runs(id)
            if _key(_settings(id, fingerprint, plan.budget, *settings)) not in known
        ]
        if not todo:
            continue
        problem = lp.make(id)
        start = problem(problem.x0)
        search = problem.batch("search")
        kl = {step: typical_kl(problem.spec.task, problem.evaluator, search, step) for step in STEPS}
        for optimizer, step, seed in todo:
            began = time.perf_counter()
            result = minimize(Stepped(problem, step), optimizer, plan.budget, seed=seed)
            yield {
                **_settings(id, fingerprint, plan.budget, optimizer, step, seed),
                "over": kl[step][0],
                "kl": kl[step][1],
                "start": start,
                "loss": result.loss,
                "best_loss": result.best_loss,
                "evaluations": result.evaluations,
                "seconds": round(time.perf_counter() - began, 3),
            }


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; a last one that was cut off is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    return [json.loads(line) for line in (lines if text.endswith("\n") else lines[:-1])]


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line, in the place of one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(json.dumps(line).encode() + b"\n")


def _settings(id: str, fingerprint: str, budget: int, optimizer: str, step: float, seed: int) -> dict[str, Any]:
    return {
        "problem": id,
        "fingerprint": fingerprint[:16],
        "optimizer": optimizer,
        "step": step,
        "seed": seed,
        "budget": budget,
    }


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("problem", "fingerprint", "optimizer", "step", "seed", "budget"))


def _plan(options: argparse.Namespace) -> Plan:
    quick = options.quick
    return Plan(
        options.problems or (QUICK_PROBLEMS if quick else PROBLEMS),
        options.optimizers or (QUICK_OPTIMIZERS if quick else OPTIMIZERS),
        options.seeds or (1 if quick else 5),
        options.budget or (100 if quick else 1000),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.step_sizes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small part: 2 problems, 3 optimizers, 1 seed, 100 evaluations"
    )
    parser.add_argument("--out", default="runs/step-sizes.jsonl", help="file of the runs (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    parser.add_argument("--problems", nargs="+", metavar="ID", help="instead of those of the experiment")
    parser.add_argument("--optimizers", nargs="+", metavar="NAME", help="instead of those of the experiment")
    parser.add_argument("--seeds", type=int, metavar="N", help="runs of each (default 5)")
    parser.add_argument("--budget", type=int, metavar="N", help="evaluations of a run (default 1000)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
