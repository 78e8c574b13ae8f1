"""Runtimes to targets: their distribution, and performance profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_problem.study.attainment import Targets, ecdf, performance_profile, profile_costs
from llm_problem.study.figures.drawing import legend_below, new_figure, shortened, styles, tidy
from llm_problem.study.results import Results

RATIOS = np.geomspace(1, 100, 200)


def ecdf_figure(results: Results, wanted: Mapping[str, Targets]) -> Any:
    """The share of (problem, target, run) reached within so many evaluations."""
    lines = {optimizer: ecdf(results, optimizer, wanted) for optimizer in results.optimizers}
    return _steps(results, results.grid, lines, "evaluations", "share of targets reached")


def profile_figure(results: Results, wanted: Mapping[str, Targets]) -> Any | None:
    """The share of targets whose ERT is at most so many times the best one's; None where no target was reached."""
    names = results.competitors
    costs = profile_costs(results, names, {p: found for p, found in wanted.items() if p in results.complete()})
    if not len(costs):
        return None
    lines = dict(zip(names, performance_profile(costs, RATIOS), strict=True))
    return _steps(results, RATIOS, lines, "ERT, times that of the best optimizer for the target", "share of targets")


def _steps(results: Results, x: np.ndarray, lines: Mapping[str, np.ndarray], below: str, beside: str) -> Any:
    figure = new_figure(3.6, width=7.2)
    axes = figure.add_subplot()
    look = styles(results.optimizers)
    for name, line in lines.items():
        axes.step(x, line, where="post", lw=1.5, label=shortened(name, 60), **look[name])
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    tidy(axes)
    legend_below(figure, axes, 4)
    return figure
