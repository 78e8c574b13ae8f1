"""Best loss and share of the gain against evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_problem.study.attainment import Targets, shares
from llm_problem.study.figures.drawing import NORMAL, legend_below, new_figure, shortened, styles, tidy
from llm_problem.study.ranking import bootstrap
from llm_problem.study.results import Results

COLUMNS = 3
DRAWS = 300  # of a band, at each of its points
BAND_POINTS = 40


def convergence(results: Results) -> Any:
    """A panel a problem: the median over seeds of the best loss so far, and the middle half as a band."""
    problems, columns = results.problems, min(COLUMNS, len(results.problems))
    rows = -(-len(problems) // columns)
    figure = new_figure(1.0 + 2.15 * rows, width=3.0 * max(2, columns))
    panels = figure.subplots(rows, columns, squeeze=False)
    look = styles(results.optimizers)
    for panel, problem in zip(panels.flat, problems, strict=False):
        panel.axhline(results.f0(problem), color="0.4", lw=1.0, ls=(0, (1, 2)), label="pretrained model")
        for optimizer in results.optimizers:
            traces = results.best_at(problem, optimizer, results.grid)
            traces = np.where(np.isfinite(traces), traces, np.nan)
            if not len(traces) or np.isnan(traces).all():
                continue
            shown = ~np.isnan(traces).any(axis=0)
            low, middle, high = np.quantile(traces[:, shown], (0.25, 0.5, 0.75), axis=0)
            label = optimizer + (" (given gradients)" if optimizer in results.given_gradients else "")
            panel.plot(results.grid[shown], middle, lw=1.3, label=shortened(label, 60), **look[optimizer])
            panel.fill_between(results.grid[shown], low, high, color=look[optimizer]["color"], alpha=0.13, lw=0)
        panel.set_xscale("log")
        panel.set_title(shortened(problem))
        tidy(panel)
    for panel in list(panels.flat)[len(problems) :]:
        panel.set_axis_off()
    for panel in list(panels.flat)[max(0, len(problems) - columns) : len(problems)]:
        panel.set_xlabel("evaluations", fontsize=NORMAL)
    units = {results.facts[problem]["unit"] or results.facts[problem]["objective"] for problem in problems}
    figure.supylabel("best search loss" + (f" ({units.pop()})" if len(units) == 1 else ""), fontsize=NORMAL)
    legend_below(figure, panels.flat[0], 4 if columns > 2 else 3)
    return figure


def share_curves(results: Results, wanted: Mapping[str, Targets]) -> Any:
    """The interquartile mean of the share of f(0) − f(reference), over problems and seeds, with a 95% band."""
    figure = new_figure(3.6, width=7.2)
    axes = figure.add_subplot()
    grid = results.grid[:: max(1, len(results.grid) // BAND_POINTS)]
    grid = np.unique(np.append(grid, results.budget))
    for optimizer, look in styles(results.optimizers).items():
        parts = [
            shares(results.f0(problem), found.reference, results.best_at(problem, optimizer, grid))
            for problem, found in wanted.items()
            if results.of(problem, optimizer)
        ]
        parts = [part for part in parts if np.isfinite(part).all()]
        if not parts:
            continue
        curve = np.array([bootstrap([part[:, k] for part in parts], draws=DRAWS) for k in range(len(grid))])
        axes.plot(grid, curve[:, 0], lw=1.5, label=shortened(optimizer, 60), **look)
        axes.fill_between(grid, curve[:, 1], curve[:, 2], color=look["color"], alpha=0.13, lw=0)
    axes.axhline(1.0, color="0.4", lw=1.0, ls=(0, (1, 2)))
    axes.set_xscale("log")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("share of f(0) − f(reference)")
    tidy(axes)
    legend_below(figure, axes, 4)
    return figure
