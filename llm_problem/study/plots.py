"""Pictures of runs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

# Okabe & Ito's palette, told apart by the colour-blind too (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def convergence_png(
    histories: Mapping[str, Sequence[float] | np.ndarray],
    *,
    baseline: float,
    title: str,
    ylabel: str = "best search loss",
) -> bytes:
    """Best loss so far against evaluations, one line an optimizer, the pretrained model as a dotted level.

    Args:
        histories: optimizer → losses in the order of evaluation; those that are not finite are passed over.
        baseline: f(0).
        title: shown above; shortened where it does not fit.
        ylabel: what is on the vertical axis, with its unit.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = max(4.8, 1.0 + 0.2 * len(histories))  # inches; a long legend needs them
    figure = Figure(figsize=(8.0, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global, no window
    axes = figure.add_subplot()
    axes.axhline(baseline, color="0.45", lw=1.2, ls=(0, (1, 2)), label=f"pretrained ({baseline:.3f})")
    best_of = {name: np.minimum.accumulate(_finite(losses)) for name, losses in histories.items() if len(losses)}
    order = sorted(best_of, key=lambda name: best_of[name][-1])
    for (name, best), style in zip(((n, best_of[n]) for n in order), cycle(_styles()), strict=False):
        evaluations = np.arange(1, len(best) + 1)
        # The level is drawn as a step: a best loss holds until a better one is found.
        axes.step(evaluations, best, where="post", lw=1.8, label=f"{name} ({best[-1]:.3f})", **style)
    axes.set_xlabel("evaluations")
    axes.set_ylabel(ylabel)
    axes.set_title(title if len(title) <= 80 else title[:79] + "…", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def front_png(
    fronts: Mapping[str, np.ndarray],
    *,
    pretrained: Sequence[float] | np.ndarray,
    title: str,
    labels: tuple[str, str],
) -> bytes:
    """Points that no other dominates in the plane of two objectives, one line an optimizer, and the pretrained model.

    Args:
        fronts: optimizer → F (n, 2); points that another of the same optimizer dominates are left out.
        pretrained: (2,) its two objectives.
        title: shown above; shortened where it does not fit.
        labels: what is on the horizontal and on the vertical axis, with units.

    Returns:
        A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, F), style, marker in zip(fronts.items(), cycle(_styles()), cycle(MARKERS), strict=False):
        front = F[non_dominated(F)]
        front = front[np.argsort(front[:, 0])]
        # A step: what lies above and to the right of a point is dominated by it.
        axes.step(*front.T, where="post", lw=1.0, alpha=0.5, **style)
        label = f"{name}, {len(front)} points"
        axes.plot(*front.T, ls="", marker=marker, ms=5.5, mec="white", mew=0.6, color=style["color"], label=label)
    x, y = pretrained
    axes.plot(x, y, ls="", marker="*", ms=15, color="black", mec="white", mew=0.8, zorder=3, label="pretrained model")
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title if len(title) <= 80 else title[:79] + "…", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def non_dominated(F: np.ndarray) -> np.ndarray:
    """Which rows of F (n, m), all minimised, no other row dominates, (n,) bool; not finite ones are dominated."""
    F = np.where(np.isfinite(F), F, np.inf)
    no_worse = (F[:, None] <= F[None]).all(axis=2)  # (n, n): row i is nowhere worse than row j
    better = (F[:, None] < F[None]).any(axis=2)
    return ~(no_worse & better).any(axis=0) & np.isfinite(F).all(axis=1)


def _finite(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(losses, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.inf)


def _styles() -> list[dict[str, Any]]:
    return [{"color": colour, "ls": style} for style in STYLES for colour in COLOURS]
