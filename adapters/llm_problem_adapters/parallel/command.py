"""`python -m llm_problem_adapters.parallel [PART …]`: what `make bench-parallel` runs; tables in Markdown."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llm_problem_adapters.faults.objectives import Free
from llm_problem_adapters.parallel.comparing import DIMENSION, real, simulated_costs, simulated_rate
from llm_problem_adapters.parallel.measuring import has_ray, layers_of, memory, one_cluster, problem_of, rates
from llm_problem_adapters.parallel.model import throughput

SIMULATED = (1, 2, 4, 16, 64, 256, 1000)
WAITING = 0.02  # seconds of an evaluation that waits


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem_adapters.parallel")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--models", nargs="+", default=["tiny-gpt2", "smollm2-135m"], metavar="NAME")
    parser.add_argument("--layers", nargs="+", type=int, default=[1, 4, 0], metavar="K", help="last layers, 0 for all")
    parser.add_argument("--sentences", type=int, default=32, metavar="N", help="search examples of a real model")
    parser.add_argument("--points", type=int, default=32, metavar="N", help="of a round at most (default 32)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of which the fastest counts (default 3)")
    parser.add_argument("--no-ray", action="store_true", help="leave Ray out")
    parser.add_argument("--real", nargs="+", type=int, default=[1, 2, 4], metavar="K", help="workers for the formula")
    parser.add_argument("--workers", nargs="+", type=int, default=SIMULATED, metavar="K", help="simulated ones")
    parser.add_argument("--populations", nargs="+", type=int, default=[64, 1024, 8192], metavar="P", help="simulated")
    parser.add_argument("--evaluation", type=float, default=0.1, metavar="S", help="simulated seconds (default 0.1)")
    parser.add_argument("--picture", metavar="FILE.png", help="the simulated cluster's curve")
    parser.add_argument("--json", metavar="FILE", help="all figures")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"unknown part {', '.join(unknown)}: there are {', '.join(PARTS)}")
    figures: dict[str, Any] = {}
    for part in [name for name in PARTS if name in (options.parts or PARTS)]:
        began = time.perf_counter()
        figures[part] = PARTS[part](options)
        print(f"{part}: {time.perf_counter() - began:.0f} s\n", file=sys.stderr, flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if options.picture and "simulated" in figures:
        from llm_problem_adapters.parallel.picture import draw

        draw(figures["simulated"], options.picture)
    return 0


def workers(options: Any) -> list[dict[str, Any]]:
    """Evaluations a second of one process and of workers, one row for each problem."""
    ray, rows = has_ray() and not options.no_ray, []
    names = ["1 thread", "2 threads", *(f"{k} {kind}" for kind in ("local", *(["Ray"] if ray else [])) for k in (1, 2))]
    _row("evaluations a second", *names, "same bits as 1 thread")
    _row(*["---"] * (len(names) + 2))
    with one_cluster(ray):
        for model in options.models:
            for layers in layers_of(model, options.layers):
                problem = problem_of(model, layers, options.sentences)
                named = f"{model}, {f'last {layers}' if layers else 'all'}"
                found = [
                    {"model": model, "layers": layers, **row}
                    for row in rates(problem, ray, options.points, options.rounds)
                ]
                of_one = found[0]["rate"]
                cells = [f"{row['rate']:.4g} ({row['rate'] / of_one:.2f}×)" for row in found]
                apart = [name for name, row in zip(names, found, strict=True) if not row["same"]]
                _row(named, *cells, f"all but {', '.join(apart)}" if apart else "all")
                problem.close()
                rows += [{"model": model, "layers": layers, **row} for row in found]
    return rows


def memories(options: Any) -> list[dict[str, Any]]:
    """What one and two workers take."""
    rows = []
    _row("last layer searched", "workers", "resident, each", "its own", "all, and the fork server")
    _row(*["---"] * 5)
    for model in options.models:
        problem = problem_of(model, 1, options.sentences)
        for k in (1, 2):
            rows.append({"model": model, **memory(problem, k)})
            megabytes = [f"{rows[-1][name] / 1e6:,.0f} MB" for name in ("rss", "private", "all")]
            _row(model, str(k), *megabytes)
        problem.close()
    return rows


def formula(options: Any) -> list[dict[str, Any]]:
    """Real workers beside the formula."""
    rows = []
    _row("evaluations a second (the formula's)", "an evaluation", *(f"{k} workers" for k in options.real))
    _row(*["---"] * (len(options.real) + 2))
    problems: list[tuple[str, Callable[[], Any]]] = [(f"waits {1e3 * WAITING:g} ms", partial(Free, DIMENSION, WAITING))]
    for model in options.models:
        problems.append((f"{model}, last 1", partial(problem_of, model, 1, options.sentences)))
    for name, make in problems:
        found = [{"problem": name, **row} for row in real(make(), options.real, 64)]
        milliseconds = f"{1e3 * found[0]['costs']['evaluation']:.2f} ms"
        _row(name, milliseconds, *(f"{row['rate']:.4g} ({row['model']:.4g})" for row in found))
        rows += found
    return rows


def simulated(options: Any) -> dict[str, Any]:
    """Throughput of sleeping workers, beside the formula with the costs that the pool was seen to have."""
    costs, rows = simulated_costs(options.evaluation), []
    print(
        f"evaluation {1e3 * costs.evaluation:g} ms (sleep), message {1e3 * costs.message:.2f} ms, "
        f"tell {1e3 * costs.tell:.3f} ms a point\n"
    )
    _row("evaluations a second (the formula's)", *(f"{k:,} workers" for k in options.workers))
    _row(*["---"] * (len(options.workers) + 1))
    for population in options.populations:
        of_this = [
            {
                "population": population,
                "workers": k,
                "rate": simulated_rate(options.evaluation, population, k),
                "model": throughput(costs, population, k),
            }
            for k in options.workers
        ]
        _row(f"population {population:,}", *(f"{row['rate']:,.4g} ({row['model']:,.4g})" for row in of_this))
        rows += of_this
    return {"costs": vars(costs), "rows": rows}


def _row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


PARTS: dict[str, Callable[[Any], Any]] = {
    "workers": workers,
    "memory": memories,
    "formula": formula,
    "simulated": simulated,
}
