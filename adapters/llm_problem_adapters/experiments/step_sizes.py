"""Is one unit of x a good step? Optimizers at multiples of the default step, on named problems.

    python -m llm_problem_adapters.experiments.step_sizes [--quick] [--out FILE.jsonl] [--table]

Every optimizer is run at each multiple of the problem's sigma, with the bounds, which are ±5 sigma, multiplied alike.
A run's gain is f(0) less the loss of the point that it recommends; a pair of problem and optimizer is judged by the
medians of its gains over the seeds: the *share* of a step is its median gain over the best one among the steps. The
aim is a share of at least 0.90 of the default step on at least 90% of the pairs.

Each run is a line of FILE, and what stands there already is not run again, so that an interrupted experiment goes on
where it was. Lines also hold the KL divergence that a step moves predictions by (`llm_problem.calibration`), so that
the second table can say which amount would have been best. All problems are run seed by seed: a file that is not
finished has something of everything.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import llm_problem as lp
from llm_problem.calibration import typical_kl
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.experiments.step_size_tables import report
from llm_problem_adapters.minimize import minimize

KEY = ("problem", "fingerprint", "optimizer", "step", "seed", "budget")
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
OPTIMIZERS = (
    "cma",
    "genetic-algorithm",
    "simulated-annealing",
    "particle-swarm",
    "nevergrad:OnePlusOne",
    "nevergrad:DE",
    "pymoo:DE",
    "pymoo:PSO",
)
PROBLEMS = (
    "tiny-bert-prose-lora-xs-d32-v1",
    "tiny-bert-prose-random-d32-v1",
    "tiny-bert-sentiment-lora-xs-d128-v1",
    "tiny-gpt2-prose-lora-xs-d32-v1",
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

    def runs(self) -> Iterator[Record]:
        """What identifies each run, seed by seed."""
        # By the fingerprint a changed problem is run anew.
        fingerprints = {id: lp.get_spec(id).fingerprint(id)[:16] for id in self.problems}
        for seed in range(self.seeds):
            for id in self.problems:
                for optimizer in self.optimizers:
                    for step in STEPS:
                        values = (id, fingerprints[id], optimizer, step, seed, self.budget)
                        yield dict(zip(KEY, values, strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and print the tables; returns the exit code."""
    options = _parser().parse_args(arguments)
    plan = _plan(options)
    records = Records(options.out, KEY)
    found = []
    try:
        for identity in plan.runs():
            if not options.table:
                found.append(records.run(identity, functools.partial(_run, identity)))
            elif identity in records:
                found.append(records.run(identity, dict))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
    print(report(found))
    return 0


def _run(identity: Record) -> Record:
    """One run."""
    id, step = identity["problem"], identity["step"]
    problem, start = _problem(id)
    began = time.perf_counter()
    result = minimize(Stepped(problem, step), identity["optimizer"], identity["budget"], seed=identity["seed"])
    return {
        "kl": _kl(id, step),
        "start": start,
        "loss": result.loss,
        "best_loss": result.best_loss,
        "evaluations": result.evaluations,
        "seconds": round(time.perf_counter() - began, 3),
    }


@functools.cache
def _problem(id: str) -> tuple[lp.Problem, float]:
    """A named problem and f(0)."""
    problem = lp.make(id)
    return problem, problem(problem.x0)


@functools.cache
def _kl(id: str, step: float) -> float:
    problem, _ = _problem(id)
    return typical_kl(problem.evaluator, problem.batch("search"), step)


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
