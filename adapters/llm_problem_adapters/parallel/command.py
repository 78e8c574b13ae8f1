"""`python -m llm_problem_adapters.parallel [workers] [simulated]`: what `make bench-parallel` runs."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.study.console import table_console
from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.parallel.measuring import pools, problem_of, rate
from llm_problem_adapters.parallel.model import Costs, throughput
from llm_problem_adapters.parallel.simulated import SimulatedPool

PARTS = ("workers", "simulated")
SIMULATED = (1, 2, 4, 16, 64, 256, 1000)
DIMENSION = 128


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem_adapters.parallel")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' or '.join(PARTS)}; both by default")
    parser.add_argument("--models", nargs="+", default=["tiny-gpt2", "smollm2-135m"], metavar="NAME")
    parser.add_argument("--layers", nargs="+", type=int, default=[1, 4, 0], metavar="K", help="last layers, 0 for all")
    parser.add_argument("--sentences", type=int, default=32, metavar="N", help="search examples of a real model")
    parser.add_argument("--points", type=int, default=32, metavar="N", help="of a generation (default 32)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the fastest counts (default 3)")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray out")
    parser.add_argument("--workers", nargs="+", type=int, default=SIMULATED, metavar="K", help="simulated ones")
    parser.add_argument("--populations", nargs="+", type=int, default=[64, 1024, 8192], metavar="P", help="simulated")
    parser.add_argument("--evaluation", type=float, default=0.1, metavar="S", help="simulated seconds (default 0.1)")
    parser.add_argument("--picture", metavar="FILE.png", help="the simulated cluster's curve")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    if "workers" in (options.parts or PARTS):
        figures["workers"] = measured(options)
    if "simulated" in (options.parts or PARTS):
        figures["simulated"] = simulated(options)
        if options.picture:
            from llm_problem_adapters.parallel.picture import draw

            draw(figures["simulated"], options.picture)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def measured(options: Any) -> list[dict[str, Any]]:
    """One row for each problem and contestant, printed as it comes."""
    console, rows = table_console(), []
    console.print(
        "evaluations a second: this process with 1 and 2 threads, workers with 1 thread each", highlight=False
    )
    for model in options.models:
        there = _all(model)
        for layers in dict.fromkeys(0 if k >= there else k for k in options.layers):
            problem = problem_of(model, layers or there, options.sentences)
            losses: dict[str, np.ndarray] = {}
            for kind, workers in pools(not options.no_ray):
                found = rate(problem, kind, workers, options.points, options.rounds)
                losses[f"{kind} {workers}"] = found.pop("losses")
                same = bool(np.array_equal(losses[f"{kind} {workers}"], losses["here 1"]))
                found |= {"model": model, "layers": layers or "all", "same_bits": same}
                rows.append(found)
                memory = ", ".join(
                    f"{each['private'] / 1e6:.0f} of {each['rss'] / 1e6:.0f} MB" for each in found.get("memory", ())
                )
                line = f"{model:14} {found['layers']!s:>4} {kind:>10} {workers}: {found['rate']:9.2f}/s"
                line += f", bits {'as' if same else 'not as'} here with 1 thread"
                console.print(
                    line + (f"; own {memory}; started in {found['start']:.1f} s" if memory else ""), highlight=False
                )
            problem.close()
    return rows


def _all(model: str) -> int:
    from llm_problem.models.loading import load_model

    return load_model(model).layers


def simulated(options: Any) -> dict[str, Any]:
    """Throughput of sleeping workers, beside the formula with the costs that the pool was seen to have."""
    console = table_console()
    costs = measured_costs(options.evaluation)
    console.print(
        f"evaluation {1e3 * costs.evaluation:.1f} ms (sleep), message {1e3 * costs.message:.2f} ms, "
        f"tell {1e3 * costs.tell:.3f} ms a point",
        highlight=False,
    )
    rows = []
    for population in options.populations:
        for workers in options.workers:
            found = simulated_rate(options.evaluation, population, workers)
            rows.append({"population": population, "workers": workers, "rate": found})
            rows[-1]["model"] = throughput(costs, population, workers)
            console.print(
                f"population {population:5}, {workers:4} workers: {found:9.1f}/s, formula {rows[-1]['model']:9.1f}/s",
                highlight=False,
            )
    return {"costs": vars(costs), "rows": rows}


def measured_costs(evaluation: float) -> Costs:
    """A message as the pool sees it where evaluating takes no time, telling by the genetic algorithm where nothing is
    sent."""
    problem, points = Free(DIMENSION), 512
    X = np.random.default_rng(0).standard_normal((points, DIMENSION))
    with SimulatedPool(problem, 4, 0.0) as pool:
        pool.outcomes("evaluate", X)
        began = time.perf_counter()
        for x in X:
            pool.submit("evaluate", x[None])
        while pool._waiting or any(worker.chunk for worker in pool._workers):
            pool.pump()
        message = (time.perf_counter() - began) / points
    began = time.perf_counter()
    minimize(problem, "genetic-algorithm", 2000, population=100)
    return Costs(evaluation, message, (time.perf_counter() - began) / 2000)


def simulated_rate(evaluation: float, population: int, workers: int) -> float:
    """Evaluations a second of the genetic algorithm, over whole generations."""
    problem = Free(DIMENSION)
    with SimulatedPool(problem, workers, evaluation) as pool:
        each = evaluation * population / workers
        generations = max(2, min(5, int(4.0 / max(each, 1e-3))))
        if each > 8:  # seconds: a part of a generation tells as much
            X = np.random.default_rng(0).standard_normal((max(4 * workers, int(8 / evaluation)), DIMENSION))
            began = time.perf_counter()
            pool.outcomes("evaluate", X)
            return len(X) / (time.perf_counter() - began)
        stamps: list[tuple[int, float]] = []
        minimize(
            problem,
            "genetic-algorithm",
            population * generations + 2,
            population=population,
            workers=pool,
            callback=lambda progress: stamps.append((progress.evaluations, time.perf_counter())),
        )
        whole = [stamp for stamp in stamps if stamp[0] >= population]
        (first, began), (last, ended) = whole[0], whole[generations - 1]
        return (last - first) / (ended - began)
