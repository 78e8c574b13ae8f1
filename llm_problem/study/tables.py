"""A study as tables: plain rows, which a report prints and files hold. Floats are written so that they read back."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_problem.harmless import plain_cell
from llm_problem.study.attainment import Targets, expected_runtime, shares
from llm_problem.study.ranking import Ranking, bootstrap, pairs
from llm_problem.study.results import Results
from llm_problem.study.runs import runs_of


@dataclass(frozen=True)
class Table:
    """Named columns and rows of numbers, texts and None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def write_csv(self, path: Path) -> Path:
        """A CSV file; what is not there is an empty cell."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows([[_cell(value) for value in row] for row in self.rows])
        return path

    def write_parquet(self, path: Path) -> Path:
        """The same as Parquet.

        Raises:
            ImportError: pyarrow is not installed; the message is the pip line.
        """
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ImportError("Parquet files need pyarrow: pip install 'llm-problem[study]'") from error
        columns = list(zip(*self.rows, strict=True)) or [()] * len(self.columns)
        pq.write_table(pa.table({name: list(values) for name, values in zip(self.columns, columns, strict=True)}), path)
        return path


def runs_table(results: Results) -> Table:
    """A row a run that the study asks for, failed and missing ones too, in its order; "seconds" alone varies."""
    metrics = list(
        dict.fromkeys(
            f"{split} {name}"
            for problem in results.problems
            for split in ("dev", "test")
            for name in results.facts[problem]["headline"]
        )
    )
    rows = []
    for run in runs_of(results.study):
        facts, ended = results.facts.get(run.problem.name, {}), results.folder.ended(run)
        head = (run.problem.name, run.problem.spec.instance, facts.get("dimension"), run.optimizer.label, run.seed)
        if ended is None:
            rows.append((*head, "missing", *[None] * (7 + len(metrics))))
            continue
        held_out = [ended.held_out.get(split, {}).get(name) for split, _, name in (m.partition(" ") for m in metrics)]
        found = (facts.get("f0"), ended.best_loss, ended.loss, ended.evaluations)
        why = ended.error if ended.error is not None else ended.stop_reason
        rows.append((*head, ended.status, *found, why, *held_out, ended.non_finite, ended.seconds))
    columns = ("problem", "instance", "dimension", "optimizer", "seed", "status", "f0", "best_loss", "loss")
    return Table((*columns, "evaluations", "reason", *metrics, "non_finite", "seconds"), rows)


def trajectories_table(results: Results) -> Table:
    """A row for each evaluation that found a better loss than all before it in its run."""
    rows = [
        (problem, optimizer, run.seed, number, loss)
        for problem in results.problems
        for optimizer in results.optimizers
        for run in results.of(problem, optimizer)
        for number, loss in run.improvements
    ]
    return Table(("problem", "optimizer", "seed", "evaluation", "best_loss"), rows)


def losses_table(results: Results, wanted: Mapping[str, Targets]) -> Table:
    """Best losses at the budget: median, quartiles, and the share of f(0) − f(reference), by problem and optimizer."""
    rows = []
    for problem in results.problems:
        for optimizer in results.optimizers:
            losses = results.final(problem, optimizer)
            if not len(losses):
                continue
            low, middle, high = (float(value) for value in np.quantile(losses, (0.25, 0.5, 0.75)))
            share = float(np.median(shares(results.f0(problem), wanted[problem].reference, losses)))
            rows.append((problem, optimizer, len(losses), middle, low, high, float(losses.min()), share))
    return Table(("problem", "optimizer", "runs", "median", "quartile 1", "quartile 3", "best", "share"), rows)


def pairs_table(results: Results) -> Table:
    """Every two optimizers on every problem, where there are seeds enough."""
    rows = [
        (pair.problem, pair.first, pair.second, pair.test.effect, pair.test.p, pair.corrected)
        for problem in results.problems
        for pair in pairs(results, problem)
    ]
    return Table(("problem", "first", "second", "effect", "p", "p (Holm)"), rows)


def runtimes_table(results: Results, wanted: Mapping[str, Targets]) -> Table:
    """ERT of every target, and how many runs reached it."""
    rows = []
    for problem in results.problems:
        found = wanted[problem]
        for budget, target in zip(found.budgets, found.losses, strict=True):
            for optimizer in results.optimizers:
                times = results.runtimes(problem, optimizer, target)
                if len(times):
                    ert = expected_runtime(times, results.spent(problem, optimizer))
                    reached = int(np.isfinite(times).sum())
                    rows.append((problem, optimizer, budget, target, ert, reached, len(times)))
    return Table(("problem", "optimizer", "reference evaluations", "target", "ERT", "reached", "runs"), rows)


def overview_table(results: Results, wanted: Mapping[str, Targets], ranks: Mapping[int, Ranking]) -> Table:
    """An optimizer a row: interquartile mean of the share, its interval, mean rank, at each number of evaluations."""
    rows = []
    for optimizer in results.optimizers:
        row: list[Any] = [optimizer]
        for number, found in ranks.items():
            parts = [
                shares(results.f0(p), wanted[p].reference, results.best_at(p, optimizer, number)[:, 0])
                for p in results.problems
                if results.of(p, optimizer)
            ]
            row += bootstrap([part for part in parts if np.isfinite(part).all()])
            place = found.optimizers.index(optimizer) if optimizer in found.optimizers else None
            row.append(None if place is None else float(found.mean[place]))
        rows.append(tuple(row))
    parts_of = ("share", "low", "high", "mean rank")
    return Table(("optimizer", *(f"{part} at {number}" for number in ranks for part in parts_of)), rows)


def winners_table(results: Results, numbers: Sequence[int]) -> Table:
    """The competitor with the lowest median on each problem after each number of evaluations; two, where both have it,
    or how many."""
    rows = []
    for problem in results.problems:
        names = [o for o in results.competitors if results.of(problem, o)]
        if names:
            best = [_lowest(names, results.medians([problem], names, number)[0]) for number in numbers]
            rows.append((problem, results.facts[problem]["dimension"], *best))
    return Table(("problem", "dimension", *(f"at {number}" for number in numbers)), rows)


def _lowest(names: Sequence[str], medians: np.ndarray) -> str:
    alike = [name for name, median in zip(names, medians, strict=True) if median == medians.min()]
    return " and ".join(alike) if len(alike) < 3 else f"{len(alike)} alike"


def held_out_table(results: Results) -> Table:
    """Medians over seeds of the recommended points' metrics on the test split, beside the pretrained model's."""
    rows = []
    for problem in results.problems:
        before = results.facts[problem]["pretrained"].get("test", {})
        for name in results.facts[problem]["headline"]:
            if name not in before:
                continue
            for optimizer in results.optimizers:
                values = [run.held_out.get("test", {}).get(name) for run in results.of(problem, optimizer)]
                kept = [value for value in values if value is not None]
                if kept:
                    low, middle, high = (float(value) for value in np.quantile(kept, (0.25, 0.5, 0.75)))
                    rows.append((problem, optimizer, name, before[name], middle, low, high))
    return Table(("problem", "optimizer", "metric", "pretrained", "median", "quartile 1", "quartile 3"), rows)


def nevergrad_table(results: Results) -> Table:
    """The columns of Nevergrad's benchmark; the loss is the recommended point's on the dev split, as in the plans."""
    rows = []
    batch = results.study.policy.batch_size or 1
    for run in runs_of(results.study):
        ended, facts = results.folder.ended(run), results.facts.get(run.problem.name)
        if ended is None or facts is None:
            continue
        loss = ended.held_out.get("dev", {}).get("loss", ended.loss)
        error = "" if ended.error is None else ended.error.partition(":")[0]
        function = ("NevergradFunction", facts["name"], facts["fingerprint"][:16], facts["dimension"], "")
        settings = (run.seed, run.optimizer.label, results.budget, batch, True)
        rows.append((loss, ended.evaluations, ended.seconds, error, ended.seconds, 1, *settings, *function))
    found = ("loss", "elapsed_budget", "elapsed_time", "error", "pseudotime", "num_objectives")
    settings_of = ("seed", "optimizer_name", "budget", "num_workers", "batch_mode")
    return Table(
        (*found, *settings_of, "function_class", "problem", "fingerprint", "dimension", "parametrization"), rows
    )


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else plain_cell(value) if isinstance(value, str) else value
