"""`python -m llm_problem.benchmarks`: what one evaluation costs, by evaluator and by number of searched layers.

All contestants take turns in one run, so that a machine that slows down slows all of them; figures are medians with the
quartiles, and ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import llm_problem as lp
from llm_problem.benchmarks.document_loop import DocumentLoop
from llm_problem.study.console import table_console
from llm_problem.suites.named import sentiment


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem.benchmarks", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a name, a directory or a hub id")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of searched last layers")
    parser.add_argument("--sentences", type=int, default=32, help="search examples")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to a new file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.sentences < 2 or min(options.layers) < 1:
        parser.error("rounds and layers must be at least 1, sentences at least 2")
    if options.json and Path(options.json).exists():
        parser.error(f"{options.json} exists already and is not overwritten")
    rows = [measure(options.model, layers, options.sentences, options.rounds) for layers in options.layers]
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    print_table(rows, machine)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return 0


def measure(model: str, layers: int, sentences: int, rounds: int) -> dict[str, Any]:
    """Seconds per evaluation of each contestant on one problem, turn by turn, and how far their losses differ."""
    task, subspace = sentiment(sentences), lp.subspaces.LoRAXS(rank=4, layers=layers)
    contestants: dict[str, Callable[[np.ndarray], float]] = {
        "document": DocumentLoop(lp.Problem(model, task, subspace, evaluator="serial")),
        "serial": lp.Problem(model, task, subspace, evaluator="serial"),
        "replay": lp.Problem(model, task, subspace, evaluator="replay"),
    }
    rng = np.random.default_rng(0)
    dimension = contestants["replay"].dimension  # type: ignore[attr-defined]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    losses: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        x = rng.standard_normal(dimension)
        for name, evaluate in contestants.items():
            # A short one is repeated, so that the clock and the caches left by a long one count for little.
            repeats = 5 if name == "replay" and turn else 1
            started = time.perf_counter()
            for _ in range(repeats):
                loss = evaluate(x)
            if turn:  # the first turn fills caches
                seconds[name].append((time.perf_counter() - started) / repeats)
                losses[name].append(loss)
    apart = max(float(np.ptp([losses[name][turn] for name in contestants])) for turn in range(rounds))
    print(f"{layers} layers measured", file=sys.stderr, flush=True)
    return {"layers": layers, "dimension": dimension, "seconds": seconds, "losses_apart": apart}


def print_table(rows: list[dict[str, Any]], machine: dict[str, Any], console: Console | None = None) -> None:
    """Milliseconds per evaluation, median [quartiles], and the ratios of the turns."""
    table = Table(title=", ".join(f"{name} {value}" for name, value in machine.items()), title_justify="left")
    for column in ("last layers", "document's loop ms", "serial ms", "replay ms", "document/replay", "serial/replay"):
        table.add_column(column, justify="right")
    table.add_column("losses apart", justify="right")
    for row in rows:
        taken = {name: np.array(values) for name, values in row["seconds"].items()}
        table.add_row(
            str(row["layers"]),
            *(_spread(1e3 * taken[name]) for name in ("document", "serial", "replay")),
            _spread(taken["document"] / taken["replay"]),
            _spread(taken["serial"] / taken["replay"]),
            f"{row['losses_apart']:.1e}",
        )
    (console or table_console()).print(table)


def _spread(values: np.ndarray) -> str:
    low, median, high = np.percentile(values, [25, 50, 75])
    return f"{median:.3g} [{low:.3g}–{high:.3g}]"


if __name__ == "__main__":
    sys.exit(main())
