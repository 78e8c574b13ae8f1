"""The critical-difference diagram (J. Demšar, JMLR 7, 2006)."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem.study.figures.drawing import NORMAL, SMALL, new_figure, shortened
from llm_problem.study.ranking import DIAGRAM_PROBLEMS, LEVEL, Ranking


def critical_difference(found: Ranking) -> Any | None:
    """Mean ranks on a line; bars join optimizers no two of which differ. None with fewer problems than it takes."""
    if not found.tested or len(found.problems) < DIAGRAM_PROBLEMS:
        return None
    count = len(found.optimizers)
    order = np.argsort(found.mean, kind="stable")
    half = -(-count // 2)
    groups = cliques(found.mean, found.together)
    depth = 0.5 + 0.28 * len(groups)  # of the bars, below the line
    figure = new_figure(0.75 + 0.22 * (depth / 0.25 + half), width=8.0)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(1 - 0.42 * count, count + 0.42 * count)
    axes.set_ylim(-(depth + 0.95 * half + 0.2), 1.2)
    axes.plot([1, count], [0, 0], color="black", lw=1.0)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.18], color="black", lw=1.0)
        axes.text(rank, 0.3, str(rank), ha="center", va="bottom", fontsize=SMALL)
    for place, number in enumerate(order):
        left = place < half
        row = place if left else count - 1 - place
        mean, y = float(found.mean[number]), -(depth + 0.95 * row)
        end = 0.85 if left else count + 0.15
        axes.plot([mean, mean, end], [0, y, y], color="0.35", lw=0.8)
        name = shortened(found.optimizers[number], 34)
        text = f"{name}  {mean:.2f}" if left else f"{mean:.2f}  {name}"
        axes.text(end + (-0.1 if left else 0.1), y, text, ha="right" if left else "left", va="center", fontsize=NORMAL)
    for level, (low, high) in enumerate(groups):
        y = -(0.3 + 0.28 * level)
        axes.plot([low - 0.06, high + 0.06], [y, y], color="black", lw=3.2, solid_capstyle="butt")
    return figure


def cliques(means: np.ndarray, together: np.ndarray, level: float = LEVEL) -> list[tuple[float, float]]:
    """The largest runs of neighbours in rank, no two of which differ, as (lowest, highest) mean rank.

    Args:
        means: (k,) mean ranks.
        together: (k, k) corrected p-values.
        level: from which on two do not differ.
    """
    order = np.argsort(means, kind="stable")
    same = together[np.ix_(order, order)] >= level
    found: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and same[start : end + 2, start : end + 2].all():
            end += 1
        if end > start and not any(first <= start and end <= last for first, last in found):
            found.append((start, end))
    return [(float(means[order[first]]), float(means[order[last]])) for first, last in found]
