"""The section `gemm`: what the matrix products of an evaluation would take at the libraries' peaks, and what it takes.

A library's peak at a shape is its speed with the same operands again and again, which are in the caches as far as they
fit: an evaluation, whose weights change from layer to layer, does not find them there. In one turn come an evaluation
and every shape in every library; the share of peak is Σ count · (the faster library's time at that shape) over the
evaluation's time, turn by turn.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from llm_problem.benchmarks.contestants import gemms
from llm_problem.benchmarks.gemm_libraries import default_product, prepacked_missing, prepacked_product
from llm_problem.benchmarks.machine import gemm_name
from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import Settings, describe
from llm_problem.benchmarks.timing import interleave, spread
from llm_problem.models.cache import say
from llm_problem.problem import Problem

DEFAULT, PREPACKED, OURS = "default", "prepacked", "ours"
Shape = tuple[int, int, int]


def gemm(settings: Settings) -> Report:
    """Peaks on the shapes of each row of the section `layers`, and ours as a share of them."""
    shares = Sheet(
        "One evaluation at the libraries' peaks: ms",
        (
            "last\nlayers",
            "GFLOP in\nproducts",
            "ours",
            f"{gemm_name()}",
            "oneDNN,\nprepacked",
            "the faster\nat each shape",
            "ours,\nGFLOP/s",
            "share\nof peak",
        ),
    )
    peaks = Sheet("Peaks: GFLOP/s", ("M × K × N", f"{gemm_name()}", "oneDNN,\nprepacked", "times in last k layers"))
    missing = prepacked_missing()
    if missing is not None:
        peaks.notes.append(f"oneDNN with prepacked weights left out: {missing}")
    task = settings.label_task()
    rows: list[dict[str, Any]] = []
    speeds: dict[str, list[np.ndarray]] = {}
    uses: dict[Shape, list[str]] = {}
    for k in settings.layer_counts():
        problem = settings.problem(task, k)
        if not rows:
            shares.notes.append(describe(problem, settings.data, "sentiment"))
        row: dict[str, Any] = {"layers": k, **measure(problem, settings, missing is None)}
        rows.append(row)
        shares.rows.append((str(k), *_share_cells(row)))
        for count, *sizes in row["gemms"] or ():
            uses.setdefault((sizes[0], sizes[1], sizes[2]), []).append(f"{count}× in {k}")
        for name, seconds in row["seconds"].items():
            speeds.setdefault(name, []).append(seconds)
        say(f"products of the last {k} layers measured")
    if any(row["gemms"] is None for row in rows):
        shares.notes.append("this evaluator does not list its matrix products: there is nothing to compare with")
    for shape, where in sorted(uses.items()):
        cells = [_speed(shape, speeds.get(_key(library, shape))) for library in (DEFAULT, PREPACKED)]
        peaks.rows.append((" × ".join(f"{size:,}" for size in shape), *cells, ", ".join(where)))
    return Report([shares, *([peaks] if uses else [])], {"prepacked_missing": missing, "rows": rows})


def measure(problem: Problem, settings: Settings, prepacked: bool) -> dict[str, Any]:
    """Seconds of an evaluation and of each shape in each library, turn by turn, and the sums that follow."""
    listed = gemms(problem)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((256, 1, problem.dimension))
    calls: dict[str, Any] = {OURS: lambda repeat: problem.evaluate(X[repeat % len(X)])}
    for shape in sorted({(m, k, n) for _, m, k, n in listed or ()}):
        calls[_key(DEFAULT, shape)] = _ignoring(default_product(*shape))
        if prepacked:
            calls[_key(PREPACKED, shape)] = _ignoring(prepacked_product(*shape))
    # There are many shapes, so each gets less of a turn than the evaluation.
    least = {name: settings.least / (1 if name == OURS else 4) for name in calls}
    seconds = interleave(calls, settings.rounds, least)
    row: dict[str, Any] = {"gemms": listed, "seconds": seconds}
    if listed:
        libraries = (DEFAULT, PREPACKED) if prepacked else (DEFAULT,)
        row["flop"] = float(sum(2 * count * m * k * n for count, m, k, n in listed))
        row["peak_seconds"] = {name: _total(listed, seconds, (name,)) for name in libraries}
        row["peak_seconds"]["faster"] = _total(listed, seconds, libraries)
        row["share_of_peak"] = row["peak_seconds"]["faster"] / seconds[OURS]
    return row


def _total(listed: Any, seconds: dict[str, np.ndarray], libraries: tuple[str, ...]) -> np.ndarray:
    """(rounds,) seconds of all products, each shape by the library whose median is lowest."""
    total = np.zeros_like(seconds[OURS])
    for count, m, k, n in listed:
        candidates = [seconds[_key(library, (m, k, n))] for library in libraries]
        total += count * min(candidates, key=lambda values: float(np.median(values)))
    return total


def _share_cells(row: dict[str, Any]) -> list[str]:
    taken = row["seconds"][OURS]
    if not row["gemms"]:
        return ["", spread(1e3 * taken), "", "", "", "", ""]
    peak = row["peak_seconds"]
    return [
        f"{row['flop'] / 1e9:.3g}",
        spread(1e3 * taken),
        *(spread(1e3 * peak[name]) if name in peak else "" for name in (DEFAULT, PREPACKED, "faster")),
        spread(row["flop"] / 1e9 / taken),
        spread(row["share_of_peak"]),
    ]


def _speed(shape: Shape, seconds: list[np.ndarray] | None) -> str:
    m, k, n = shape
    return spread(2e-9 * m * k * n / np.concatenate(seconds)) if seconds else ""


def _key(library: str, shape: Shape) -> str:
    return f"{library} {'x'.join(map(str, shape))}"


def _ignoring(product: Any) -> Any:
    """A call that takes the number of its repeat."""
    return partial(lambda call, repeat: call(), product)
