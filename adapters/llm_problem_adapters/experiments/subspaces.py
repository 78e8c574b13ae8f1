"""`python -m llm_problem_adapters.experiments.subspaces`: what each subspace reaches, and what it costs.

On SmolLM2-135M with 256 sentences (SST-2 with --data, else the embedded ones) and on the bundled models: dimension,
milliseconds an evaluation, and after 1,000 evaluations the search loss and held-out metric of CMA-ES (its diagonal form
above DIAGONAL dimensions), of Nevergrad's DE at its defaults and of Adam in the same subspace, whose gradients are
charged as three evaluations. Medians of the seeds; Adam starts at zero and draws nothing, so it runs once. Held out is
the dev split, by which nothing is chosen here. Costs are measured as the rows come: run with `--optimizers` and no name
on a quiet machine first.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.subspaces import Subspace
from llm_problem.suites.named import IT_WAS, REVIEW, prose, sentiment
from llm_problem_adapters.experiments.markdown import markdown
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.minimize import minimize

DIAGONAL = 300
LONGEST = 3600.0  # seconds that an optimizer's runs of one row may take; what would take longer is left out
KEY = ("model", "subspace", "fingerprint", "budget", "optimizer", "seed")
COST = "cost"  # in the place of an optimizer: what one evaluation takes
OPTIMIZERS = ("cma", "nevergrad:DE", "adam")
MODELS = ("smollm2-135m", "tiny-gpt2", "tiny-bert")
TEXT = "The following is a review of a film, with a verdict."


def subspaces(model: str, parts: Sequence[str]) -> dict[str, Subspace]:
    """A description of every kind, in the last layers; `parts` are folders of adapters and models to mix."""
    s = lp.subspaces
    k = 1 if model == "smollm2-135m" else 2
    adapters, models = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    found: dict[str, Subspace] = {
        "LoRA-XS, rank 4": s.LoRAXS(4, layers=k),
        "LoRA-XS, rank 8": s.LoRAXS(8, layers=k),
        "LoRA, A frozen, rank 1": s.LoRA(1, layers=k),
        "TinyLoRA": s.TinyLoRA(16, rank=4, layers=k),
        "VeRA, d searched": s.VeRA(32, layers=k),
        "VeRA, b searched": s.VeRA(32, layers=k, searched="b"),
        "singular values": s.SingularValues(64, layers=k),
        "random, Gaussian": s.RandomSubspace(64, layers=k),
        "random, sparse": s.SparseProjection(64, layers=k),
        "random, Fastfood": s.Fastfood(64, layers=k),
        "scales (IA3)": s.Scales(layers=k),
        "norms and biases": s.NormsAndBiases(layers=k),
        "soft prompt": s.SoftPrompt(TEXT, 64),
        "LoRA-XS + norms": s.Together((s.LoRAXS(4, layers=k), s.NormsAndBiases(layers=k))),
        "mix of 3 adapters": s.AdapterMix(tuple(adapters)),
        "mix of 3 models": s.ModelMix(tuple(models)),
    }
    if model != "tiny-bert":
        found["prefix"] = s.Prefix(TEXT, 64, layers=k)
    if model != "smollm2-135m":
        found["full vector"] = s.FullVector()
    return found


def task_for(model: str, data: Path | None) -> lp.tasks.Task:
    """256 sentences for SmolLM2, the embedded prose for the bundled models."""
    if model != "smollm2-135m":
        return prose(16)
    if data is None:
        return sentiment(240, REVIEW)
    return sst2(data, 256)


def sst2(data: Path, size: int) -> lp.tasks.Task:
    """So many sentences to search on, after the poor prompt; `data` is a folder with train.csv, dev.csv, test.csv."""
    return lp.tasks.Classification.from_csv(
        data / "train.csv",
        text="text",
        label="label",
        prompt=IT_WAS,
        labels={"negative": " terrible", "positive": " great"},
        dev=data / "dev.csv",
        test=data / "test.csv",
        search_size=size,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print a table for each model; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.subspaces", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows by name")
    parser.add_argument("--optimizers", nargs="*", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--budget", type=int, default=1000, metavar="N")
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds that one optimizer's runs may take")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the matrix products")
    parser.add_argument("--data", type=Path, help="folder with train.csv, dev.csv, test.csv (SST-2)")
    parser.add_argument("--parts", type=Path, help="folder for the adapters and models to mix (default: a new one)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file of the runs; goes on where it was")
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what is there")
    options = parser.parse_args(arguments)
    records = Records(options.out, KEY)
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.models:
            if not options.table:
                task = task_for(model, options.data)
                parts = make_parts(model, task, options.parts or Path(scratch))
                for name, subspace in subspaces(model, parts).items():
                    if options.only is None or name in options.only:
                        run_row(records, model, lp.Problem(model, task, subspace, dtype=options.dtype), name, options)
            print(f"\n{model}\n\n{table(records, model, options)}", flush=True)
    return 0


def make_parts(model: str, task: lp.tasks.Task, folder: Path) -> list[str]:
    """Three adapters and three models to mix, each from a short search on other examples than the table's."""
    folders = [folder / f"{model}-{kind}-{k}" for kind in ("adapter", "model") for k in range(3)]
    for k in range(3):
        if all(f.exists() for f in (folders[k], folders[3 + k])):
            continue
        problem = lp.Problem(model, task, lp.subspaces.LoRAXS(4, layers=1), seed=101 + k)
        x = minimize(problem, "cma", budget=300, seed=k).x
        if not folders[k].exists():
            problem.save_adapter(x, folders[k])
        if not folders[3 + k].exists():
            problem.save_model(x, folders[3 + k])
    return [str(f) for f in folders]


def run_row(records: Records, model: str, problem: lp.Problem, name: str, options: Any) -> None:
    """The cost of a row's evaluations, and the runs that do not take longer than allowed."""
    for optimizer, seed in plan(options):
        values = (model, name, problem.fingerprint[:16], options.budget, optimizer, seed)
        identity = dict(zip(KEY, values, strict=True))
        if optimizer == COST:
            costs = records.run(identity, functools.partial(cost, problem))
        elif seconds(costs, optimizer, options) <= options.longest:
            records.run(identity, functools.partial(one_run, problem, optimizer, seed, options.budget))


def plan(options: Any) -> list[tuple[str, int]]:
    """(optimizer, seed) of each run of a row, its cost first."""
    return [(COST, 0), *((o, s) for o in options.optimizers for s in range(1 if o == "adam" else options.seeds))]


def seconds(costs: Record, optimizer: str, options: Any) -> float:
    """What an optimizer's runs of one row will take; a gradient is charged as three evaluations."""
    if optimizer == "adam":
        return costs["gradient_ms"] * options.budget / 3000
    return costs["ms"] * options.budget * options.seeds / 1000


def cost(problem: lp.Problem) -> Record:
    """f(0), and milliseconds: of an evaluation in a population of 8 (alone, where x is large), and of a gradient."""
    population = 1 if problem.dimension > 100_000 else 8
    X = np.random.default_rng(0).standard_normal((population, problem.dimension))
    return {
        "d": problem.dimension,
        "start": problem(problem.x0),
        "ms": milliseconds(lambda: problem.evaluate(X)) / population,
        "gradient_ms": milliseconds(lambda: problem.value_and_grad(X[0])),
        "held_out_start": problem.metrics(problem.x0, "dev"),
    }


def milliseconds(what: Callable[[], Any]) -> float:
    """The median of three calls after a first one."""
    what()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        what()
        times.append(1000 * (time.perf_counter() - began))
    return float(np.median(times))


def one_run(problem: lp.Problem, optimizer: str, seed: int, budget: int) -> Record:
    """One search and what it found."""
    chosen = "cma-diagonal" if optimizer == "cma" and problem.dimension > DIAGONAL else optimizer
    result = minimize(problem, chosen, budget=budget, seed=seed)
    return {"loss": result.loss, "held_out": problem.metrics(result.x, "dev"), "seconds": result.seconds}


def table(records: Records, model: str, options: Any) -> str:
    """A row a subspace: medians of the seeds; a dash where runs would take too long."""
    header, rows = [], []
    found = [r for r in records.all() if (r["model"], r["budget"]) == (model, options.budget)]
    newest = {r["subspace"]: r["fingerprint"] for r in found}  # of a row that was run before something changed
    for name, fingerprint in newest.items():
        row = [r for r in found if (r["subspace"], r["fingerprint"]) == (name, fingerprint)]
        mine = {(r["optimizer"], r["seed"]): r for r in row}
        costs = mine[COST, 0]
        metric = "accuracy" if "accuracy" in costs["held_out_start"] else "loss"
        header = ["subspace", "d", "ms", "f(0)", f"held-out {metric}"]
        cells = [name, f"{costs['d']:,}", f"{costs['ms']:.3g}", f"{costs['start']:.3f}"]
        cells.append(f"{costs['held_out_start'][metric]:.3f}")
        for optimizer in options.optimizers:
            header += [f"{optimizer}: loss", f"held-out {metric}"]
            runs = [mine[run] for run in plan(options) if run[0] == optimizer and run in mine]
            cells += [
                f"{np.median([r['loss'] for r in runs]):.3f}" if runs else "—",
                f"{np.median([r['held_out'][metric] for r in runs]):.3f}" if runs else "—",
            ]
        rows.append(cells)
    return markdown(header, rows, [column > 0 for column in range(len(header))]) if rows else "no runs yet"


if __name__ == "__main__":
    sys.exit(main())
