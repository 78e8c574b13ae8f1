"""`python -m llm_problem_adapters.experiments.search_sizes`: what a search is worth by the number of its examples.

SmolLM2-135M after the poor prompt "{text} It was", LoRA-XS of rank 8 in the last layer (d = 128), 1,000 evaluations
from x = 0, on 8, 32, 128 and 512 sentences (SST-2 with --data, else the embedded ones, of which there are 240). Each
seed draws its sentences, its basis and its run. Held out is the dev split, by which nothing is chosen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.suites.named import IT_WAS, sentiment
from llm_problem_adapters.experiments.markdown import markdown
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.experiments.subspaces import sst2
from llm_problem_adapters.minimize import minimize

SIZES = (8, 32, 128, 512)
OPTIMIZERS = ("random-search", "genetic-algorithm-document", "genetic-algorithm-improved", "cma")
PRETRAINED = "pretrained"  # in the place of an optimizer
KEY = ("model", "size", "fingerprint", "optimizer", "budget", "seed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet, print the table, draw the picture; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.search_sizes", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--model", default="smollm2-135m", metavar="M")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="N")
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5, metavar="K")
    parser.add_argument("--budget", type=int, default=1000, metavar="N")
    parser.add_argument("--data", type=Path, help="folder with train.csv, dev.csv, test.csv (SST-2)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file of the runs; goes on where it was")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="held-out accuracy by the number of sentences")
    options = parser.parse_args(arguments)
    records, runs = Records(options.out, KEY), list[Record]()
    for size in options.sizes:
        task = task_for(size, options.data)
        for seed in range(options.seeds):
            problem = lp.Problem(options.model, task, lp.subspaces.LoRAXS(8, layers=1), seed=seed)
            for name in (PRETRAINED, *options.optimizers):
                runs.append(run(records, problem, size, name, options.budget, seed))
                print(f"{size} sentences, seed {seed}: {name}", file=sys.stderr, flush=True)
            problem.close()
    print(table(runs, options.sizes, options.optimizers))
    if options.picture is not None:
        draw(runs, options.sizes, options.optimizers, options.picture)
    return 0


def task_for(size: int, data: Path | None) -> lp.tasks.Task:
    """So many sentences to search on."""
    return sentiment(size, IT_WAS) if data is None else sst2(data, size)


def run(records: Records, problem: lp.Problem, size: int, optimizer: str, budget: int, seed: int) -> Record:
    """One run: its recommended point's search loss and held-out metrics; or those of x = 0."""

    def make() -> Record:
        x = problem.x0 if optimizer == PRETRAINED else minimize(problem, optimizer, budget, seed=seed).x
        return {"loss": problem(x), "held_out": problem.metrics(x, "dev")}

    values = (problem.spec.model, size, problem.fingerprint[:16], optimizer, budget, seed)
    return records.run(dict(zip(KEY, values, strict=True)), make)


def table(runs: Sequence[Record], sizes: Sequence[int], optimizers: Sequence[str]) -> str:
    """A row an optimizer and size: medians of the seeds, with quartiles of the held-out accuracy."""
    rows = []
    for size in sizes:
        for name in (PRETRAINED, *optimizers):
            search, loss = (np.median(values(runs, size, name, what)) for what in ("search", "loss"))
            low, middle, high = np.quantile(values(runs, size, name, "accuracy"), (0.25, 0.5, 0.75))
            rows.append([f"{size:,}", name, f"{search:.3f}", f"{loss:.3f}", f"{middle:.3f} [{low:.3f}, {high:.3f}]"])
    header = ["sentences", "optimizer", "search loss", "held-out loss", "held-out accuracy"]
    return markdown(header, rows, [True, False, True, True, True])


def values(runs: Sequence[Record], size: int, optimizer: str, what: str) -> np.ndarray:
    """Of each seed: "search" is the search loss, otherwise a held-out metric."""
    mine = [r for r in runs if (r["size"], r["optimizer"]) == (size, optimizer)]
    return np.array([r["loss"] if what == "search" else r["held_out"][what] for r in mine])


def draw(runs: Sequence[Record], sizes: Sequence[int], optimizers: Sequence[str], path: Path) -> None:
    """Search loss and held-out accuracy by the number of sentences: medians, and the middle half of the seeds."""
    from llm_problem.study.figures.drawing import legend_below, new_figure, styles, tidy

    figure: Any = new_figure(3.6, width=8.0)
    for axes, what, title in zip(
        figure.subplots(1, 2), ("search", "accuracy"), ("search loss (nats)", "held-out accuracy"), strict=True
    ):
        for name, look in styles([*optimizers, PRETRAINED]).items():
            if name == PRETRAINED:
                look = {"color": "0.4", "ls": ":"}
            found = np.array([np.quantile(values(runs, n, name, what), (0.25, 0.5, 0.75)) for n in sizes])
            axes.plot(sizes, found[:, 1], marker="o", ms=3.5, lw=1.5, label=name, **look)
            axes.fill_between(sizes, found[:, 0], found[:, 2], alpha=0.15, lw=0, color=look["color"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.set_xlabel("sentences to search on")
        axes.set_ylabel(title)
        tidy(axes)
    legend_below(figure, axes, 5)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    sys.exit(main())
