"""Matrices with their numbers in them: shares by problem and optimizer, correlations between problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_problem.study.attainment import Targets, shares
from llm_problem.study.figures.drawing import SMALL, new_figure, shortened
from llm_problem.study.results import Results

CELL = 0.34  # inches
MARGIN = 3.6  # for names on the left
LETTER = 0.055  # of names that stand slanted above


def share_matrix(results: Results, wanted: Mapping[str, Targets]) -> Any:
    """The median share of f(0) − f(reference) at the budget: problems by optimizers."""
    values = np.array(
        [
            [
                np.median(shares(results.f0(p), wanted[p].reference, results.final(p, o)))
                if results.of(p, o)
                else np.nan
                for o in results.optimizers
            ]
            for p in results.problems
        ]
    )
    return _matrix(values, results.problems, results.optimizers, "viridis", (0.0, max(1.0, _largest(values))))


def correlation_matrix(problems: Sequence[str], values: np.ndarray) -> Any:
    """Spearman's correlations (problems, problems); columns have the rows' numbers."""
    rows = [f"{name}  {place}" for place, name in enumerate(problems, start=1)]
    columns = [str(place) for place in range(1, len(rows) + 1)]
    return _matrix(values, rows, columns, "RdBu", (-1.0, 1.0), slanted=False)


def _matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    colours: str,
    limits: tuple[float, float],
    slanted: bool = True,
) -> Any:
    # Cells are wide enough for a number, and names stand slanted above them.
    above = LETTER * max(len(shortened(column, 40)) for column in columns) if slanted else 0.0
    figure = new_figure(0.6 + above + CELL * len(rows), width=MARGIN + above + 1.45 * CELL * len(columns))
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    turned: dict[str, Any] = {"rotation": 40, "ha": "left"} if slanted else {}
    axes.set_xticks(range(len(columns)), [shortened(c, 40) for c in columns], fontsize=SMALL, **turned)
    axes.set_yticks(range(len(rows)), [shortened(row) for row in rows], fontsize=SMALL)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                text = f"{value:.2f}"
                axes.text(j, i, text, ha="center", va="center", fontsize=SMALL, color="white" if dark else "black")
    return figure


def _largest(values: np.ndarray) -> float:
    return float(np.max(values, where=np.isfinite(values), initial=0.0))
