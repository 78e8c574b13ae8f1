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


def _finite(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(losses, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.inf)


def _styles() -> list[dict[str, Any]]:
    return [{"color": colour, "ls": style} for style in STYLES for colour in COLOURS]
