"""Measure the cards of the named problems: `python -m llm_problem_adapters.cards [PATTERN …]`.

Writes llm_problem/suites/cards.json (see `llm_problem.suites.cards`) problem by problem, and docs/problems.md from it.
What has a card already is left alone, unless --again; a card says by which command it can be made again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.benchmarks.machine import machine
from llm_problem.models.loading import load_model
from llm_problem.problem import Problem
from llm_problem.suites import cards, get
from llm_problem.suites.page import page
from llm_problem.suites.suite import Entry
from llm_problem_adapters.identity import versions
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.result import Result

REFERENCE, REFERENCE_LARGE = "cma", "cma-diagonal"  # the latter from `LARGE` dimensions on
LARGE = 1_000
# The losses of the reference after so many evaluations are targets.
MARKS = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
OTHERS = ("genetic-algorithm-improved", "differential-evolution")  # tried for the best observed, too
GRADIENT = "adam"
KEPT = (
    "model", "data", "task", "search_examples", "search_tokens", "subspace", "subspace_settings", "dimension",
    "objectives", "fingerprint", "tokens_sha256", "basis_sha256",
)  # fmt: skip
TIMED = 40  # evaluations, of which the median is taken
LICENCES = {
    "smollm2-135m": "model Apache-2.0 (HuggingFaceTB/SmolLM2-135M-Instruct); data MIT, of this project",
    "tiny-gpt2": "model and data MIT, of this project",
    "tiny-bert": "model and data MIT, of this project",
}
FILE = Path(cards.__file__).with_name(cards.FILE)
ROOT = Path(__file__).parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns the exit code."""
    options = _parser().parse_args(arguments)
    known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"problems": {}}
    for entry in _wanted(options.pattern, options.instances):
        if options.times and entry.name in known["problems"]:
            with _made(entry) as problem:
                known["problems"][entry.name]["milliseconds"] = milliseconds(problem)
            _write(FILE, _text(known))
        elif not (options.page or options.times) and (options.again or entry.name not in known["problems"]):
            found = measured(entry, options.budget, range(1, options.seeds + 1), options.gradient)
            # The file as it is now: another process may have measured others.
            known = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"problems": {}}
            known["problems"][entry.name] = found
            known.update(machine=machine(), versions=versions())
            _write(FILE, _text(known))
            print(f"{entry.name}: f(0) {found['f0']:.4f}, best {found['best']['loss']:.4f}", flush=True)
    cards.all_cards.cache_clear()
    if (ROOT / "docs").is_dir():
        _write(ROOT / "docs" / "problems.md", page(known))
    return 0


def measured(entry: Entry, budget: int, seeds: Iterable[int], gradient: int) -> dict[str, Any]:
    """The card of a problem.

    Args:
        entry: which.
        budget: evaluations of each run.
        seeds: of the reference's runs; the others have the first.
        gradient: evaluations that Adam is charged at most; 0 leaves it out.
    """
    with _made(entry) as problem:
        card = {**facts(entry, problem), "milliseconds": milliseconds(problem), "licence": LICENCES[entry.spec.model]}
        name = REFERENCE if entry.dimension < LARGE else REFERENCE_LARGE
        runs = {seed: minimize(problem, name, budget, seed=seed) for seed in seeds}
        first = min(runs)
        traces = np.array([np.minimum.accumulate(np.nan_to_num(run.losses, nan=np.inf)) for run in runs.values()])
        marks = [mark for mark in MARKS if mark <= budget]
        card["targets"] = {str(mark): float(np.median(traces[:, mark - 1])) for mark in marks}
        card["reference"] = {
            "optimizer": name,
            "budget": budget,
            "seeds": list(runs),
            "loss": float(np.median(traces[:, -1])),
            "command": command(entry.name, name, budget, first),
        }
        tried = [*((name, seed, run) for seed, run in runs.items())]
        if entry.dimension < LARGE:
            tried += [(other, first, minimize(problem, other, budget, seed=first)) for other in OTHERS]
        card["best"] = _best(entry.name, budget, tried)
        if gradient:
            run = minimize(problem, GRADIENT, gradient, seed=first)
            card["gradient"] = {
                "loss": run.best_loss,
                "optimizer": GRADIENT,
                "budget": gradient,
                "seed": first,
                "command": command(entry.name, GRADIENT, gradient, first),
            }
    return card


def facts(entry: Entry, problem: Problem) -> dict[str, Any]:
    """What a card says of a problem without running anything on it but f(0)."""
    said = problem.card()
    return {
        **{key: said[key] for key in KEPT if key in said},
        "weights_sha256": load_model(entry.spec.model).identity,
        "f0": problem(problem.x0),
    }


def milliseconds(problem: Problem) -> float:
    """The median processor time of one evaluation at points ~ N(0, I), one by one, so that other load hardly counts."""
    X = np.random.default_rng(0).standard_normal((3 if problem.dimension > 10 * LARGE else TIMED, problem.dimension))
    problem.evaluate(X[:1])
    taken = []
    for x in X:
        began = time.process_time()
        problem.evaluate(x[None, :])
        taken.append(time.process_time() - began)
    return float(f"{1e3 * float(np.median(taken)):.3g}")


def command(name: str, optimizer: str, budget: int, seed: int) -> str:
    """The command that repeats a run."""
    return f"llm-problem run {name} --optimizer {optimizer} --budget {budget} --seed {seed}"


def _best(name: str, budget: int, tried: Sequence[tuple[str, int, Result]]) -> dict[str, Any]:
    optimizer, seed, run = min(tried, key=lambda each: each[2].best_loss)
    again = command(name, optimizer, budget, seed)
    return {"loss": run.best_loss, "optimizer": optimizer, "budget": budget, "seed": seed, "command": again}


def _wanted(patterns: Sequence[str], instances: int) -> list[Entry]:
    from fnmatch import fnmatchcase

    entries = [entry for name in ("tiny", "real") for entry in get(name).entries]
    chosen = [entry for entry in entries if any(fnmatchcase(str(entry.spec.id), pattern) for pattern in patterns)]
    return [entry for entry in chosen if entry.spec.instance < instances]


class _made:
    """The problem for a block, and closed behind it."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    def __enter__(self) -> Problem:
        self.problem = self.entry.make()
        return self.problem

    def __exit__(self, *exc: object) -> None:
        self.problem.close()


def _text(known: dict[str, Any]) -> str:
    return json.dumps(known, indent=1, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    """The whole file or none."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.cards", description="Measure the cards of the named problems."
    )
    parser.add_argument("pattern", nargs="*", default=["*"], help="of ids, with * and ?")
    parser.add_argument("--budget", type=int, default=1_000, metavar="N", help="evaluations of each run (default 1000)")
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="runs of the reference optimizer (default 3)")
    parser.add_argument("--gradient", type=int, default=600, metavar="N", help="evaluations for Adam (default 600)")
    parser.add_argument("--instances", type=int, default=1, metavar="K", help="instances below K (default 1)")
    parser.add_argument("--again", action="store_true", help="measure what has a card, too")
    parser.add_argument("--times", action="store_true", help="measure again how long an evaluation takes, no more")
    parser.add_argument("--page", action="store_true", help="measure nothing, write the page")
    return parser


if __name__ == "__main__":
    sys.exit(main())
