"""`python -m llm_problem_adapters.experiments.subspaces`: what each subspace reaches, and what it costs.

On SmolLM2-135M with 256 sentences (SST-2 with --data, else the embedded ones) and on the bundled models: dimension,
milliseconds an evaluation, and after 1,000 evaluations the search loss and held-out metric of CMA-ES (its diagonal form
above DIAGONAL dimensions), of Nevergrad's DE at its defaults and of Adam in the same subspace, whose gradients are
charged as three evaluations. Medians of the seeds; Adam starts at zero and draws nothing, so it runs once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import llm_problem as lp
from llm_problem.study.console import table_console
from llm_problem.subspaces import Subspace
from llm_problem.suites.named import IT_WAS, REVIEW, prose, sentiment
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.minimize import minimize

DIAGONAL = 300
LONGEST = 3600.0  # seconds that the runs of one row may take; a row that would take longer is left out
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
    return lp.tasks.Classification.from_csv(
        data / "train.csv",
        text="text",
        label="label",
        prompt=IT_WAS,
        labels={"negative": " terrible", "positive": " great"},
        dev=data / "dev.csv",
        test=data / "test.csv",
        search_size=256,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print a table for each model."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem_adapters.experiments.subspaces", description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--only", nargs="+", help="rows by name")
    parser.add_argument("--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--longest", type=float, default=LONGEST, help="seconds that one optimizer's runs may take")
    parser.add_argument("--data", type=Path, help="folder with train.csv, dev.csv, test.csv (SST-2)")
    parser.add_argument("--parts", type=Path, help="folder for the adapters and models to mix (default: a new one)")
    parser.add_argument("--out", help="file of the runs; goes on where it was")
    options = parser.parse_args(arguments)
    records = Records(options.out, ("model", "subspace", "fingerprint", "optimizer", "budget", "seed"))
    with tempfile.TemporaryDirectory() as scratch:
        for model in options.models:
            task = task_for(model, options.data)
            parts = make_parts(model, task, options.parts or Path(scratch))
            rows = {}
            for name, subspace in subspaces(model, parts).items():
                if options.only is None or name in options.only:
                    rows[name] = runs_of(records, model, task, name, subspace, options)
            print_table(model, rows, options.optimizers)
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


def runs_of(
    records: Records, model: str, task: lp.tasks.Task, name: str, subspace: Subspace, options: Any
) -> dict[str, list[Record]]:
    """The runs of one row, by optimizer; [] where they would take longer than allowed."""
    problem = lp.Problem(model, task, subspace)
    found: dict[str, list[Record]] = {}
    for optimizer in options.optimizers:
        found[optimizer] = []
        for seed in range(1 if optimizer == "adam" else options.seeds):
            identity = {
                "model": model,
                "subspace": name,
                "fingerprint": problem.fingerprint,
                "optimizer": optimizer,
                "budget": options.budget,
                "seed": seed,
            }
            record = records.run(identity, lambda o=optimizer, s=seed: one_run(problem, o, s, options))
            if "seconds_needed" in record:
                break
            found[optimizer].append(record)
    return found


def one_run(problem: lp.Problem, optimizer: str, seed: int, options: Any) -> Record:
    """One search and what it found on the dev split; of a row that takes too long, only how long it would take."""
    start, milliseconds = cost(problem, optimizer)
    seconds = milliseconds * options.budget / 1000 * (1 if optimizer == "adam" else options.seeds)
    if seconds > options.longest:
        return {"d": problem.dimension, "start": start, "ms": milliseconds, "seconds_needed": seconds}
    chosen = "cma-diagonal" if optimizer == "cma" and problem.dimension > DIAGONAL else optimizer
    result = minimize(problem, chosen, budget=options.budget, seed=seed)
    return {
        "d": problem.dimension,
        "start": start,
        "ms": 1000 * result.seconds / options.budget,
        "loss": result.loss,
        "held_out": problem.metrics(result.x, "dev"),
        "held_out_start": problem.metrics(problem.x0, "dev"),
    }


def cost(problem: lp.Problem, optimizer: str) -> tuple[float, float]:
    """f(0), and milliseconds an evaluation in a small population (of Adam, a third of a gradient)."""
    import time

    start = problem(problem.x0)
    X = np.zeros((1 if optimizer == "adam" or problem.dimension > 100_000 else 8, problem.dimension))
    evaluate = (lambda: problem.value_and_grad(X[0])) if optimizer == "adam" else (lambda: problem.evaluate(X))
    evaluate()
    began = time.perf_counter()
    evaluate()
    taken = 1000 * (time.perf_counter() - began)
    return start, taken / (3 if optimizer == "adam" else len(X))


def print_table(model: str, rows: dict[str, dict[str, list[Record]]], optimizers: Sequence[str]) -> None:
    """A row a subspace: medians of the seeds."""
    some = next(r for runs in rows.values() for mine in runs.values() for r in mine)
    metric = "accuracy" if "accuracy" in some["held_out"] else "loss"
    table = Table(title=f"{model}: pretrained held-out {metric} {some['held_out_start'][metric]:.3f}")
    table.add_column("subspace", no_wrap=True)
    for column in ("d", "ms", "f(0)"):
        table.add_column(column, justify="right")
    for name in optimizers:
        table.add_column(f"{name}\nloss", justify="right")
        table.add_column(f"{name}\nheld-out {metric}", justify="right")
    for name, runs in rows.items():
        done = [r for mine in runs.values() for r in mine]
        if not done:
            table.add_row(name, *["—"] * (3 + 2 * len(optimizers)))
            continue
        quickest = min(r["ms"] for r in done)
        cells = [f"{done[0]['d']:,}", f"{quickest:.2f}", f"{done[0]['start']:.3f}"]
        for optimizer in optimizers:
            mine = runs[optimizer]
            losses, held = [r["loss"] for r in mine], [r["held_out"][metric] for r in mine]
            cells += [f"{np.median(losses):.3f}", f"{np.median(held):.3f}"] if mine else ["—", "—"]
        table.add_row(name, *cells)
    table_console().print(table)


if __name__ == "__main__":
    sys.exit(main())
