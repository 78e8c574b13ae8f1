"""A picture of what searches gained: how they went, and what their points are worth on examples they did not see."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_problem.statistics import Comparison
from llm_problem.study.plots import COLOURS, STYLES

MOST_POINTS = 2000  # of a curve; more cannot be seen


def gains_png(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    changes: Mapping[str, Mapping[str, Comparison]],
    *,
    baseline: float,
    title: str,
    xlabel: str = "evaluations",
    ylabel: str,
    metrics: Mapping[str, str],
    split: str = "test",
) -> bytes:
    """On the left how each search went, on the right what each metric was before and is after it.

    A whisker is the 95% interval of the paired difference from the pretrained model: one that does not reach the dashed
    line is a gain or a loss, and one that does is neither.

    Args:
        curves: run → what is on the horizontal axis (n,), and on the vertical one (n,).
        changes: run → metric → its change from the pretrained model, in the order they are shown in.
        baseline: the pretrained model's level on the left.
        title: shown above; shortened where it does not fit.
        xlabel: what is on the horizontal axis of the left part, with its unit.
        ylabel: what is on its vertical axis, with its unit.
        metrics: those shown → what each is called, with its unit.
        split: the examples that the changes are of, for the headings.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 + 2.3 * len(metrics), 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(metrics), width_ratios=[2.2, *(1.0 for _ in metrics)])
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(dict.fromkeys((*curves, *changes)))}
    _draw_curves(axes[0], curves, colours, baseline, xlabel, ylabel)
    for panel, (metric, label) in zip(axes[1:], metrics.items(), strict=True):
        _draw_points(panel, {run: found[metric] for run, found in changes.items()}, colours)
        panel.set_title(f"{label}\n{split}", fontsize=9)
    figure.suptitle(title if len(title) <= 100 else title[:99] + "…", fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def best_so_far(losses: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations (n,) from 1 and the best loss so far (n,), of losses in the order of evaluation."""
    values = np.asarray(losses, dtype=np.float64)
    best = np.minimum.accumulate(np.where(np.isfinite(values), values, np.inf))
    return np.arange(1, len(best) + 1), best


def _draw_curves(
    axes: Any,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    colours: Mapping[str, str],
    baseline: float,
    xlabel: str,
    ylabel: str,
) -> None:
    axes.axhline(baseline, color="0.45", lw=1.2, ls=(0, (1, 2)), label="pretrained")
    for k, (name, (x, y)) in enumerate(curves.items()):
        shown = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).astype(int))
        line = {"color": colours[name], "ls": STYLES[k % len(STYLES)], "lw": 1.8}
        axes.step(np.asarray(x)[shown], np.asarray(y)[shown], where="post", label=name, **line)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)


def _draw_points(axes: Any, changes: Mapping[str, Comparison], colours: Mapping[str, str]) -> None:
    first = next(iter(changes.values()))
    axes.axhline(first.before, color="0.3", lw=0.9, ls="--")
    axes.plot(0, first.before, marker="*", ms=12, color="0.45", ls="")
    axes.annotate(f"{first.before:.4g}", (0, first.before), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    for k, (name, change) in enumerate(changes.items(), start=1):
        low, high = change.before + change.low, change.before + change.high
        whisker = [[max(0.0, change.after - low)], [max(0.0, high - change.after)]]  # none where it is not a number
        axes.errorbar(k, change.after, whisker, color=colours[name], marker="o", ms=7, capsize=4, lw=1.6)
        axes.annotate(
            f"{change.after:.4g}\n{change.verdict}",
            (k, max(change.after, high)),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )
    axes.margins(x=0.25, y=0.3)
    axes.set_xlim(-0.6, len(changes) + 0.6)
    axes.set_xticks(range(1 + len(changes)), ["pretrained", *changes], rotation=30, ha="right", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(alpha=0.25, axis="y")
    axes.spines[["top", "right"]].set_visible(False)
