"""What the figures share: a canvas without pyplot, one style for each optimizer, files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from llm_problem.study.plots import COLOURS, STYLES

WIDTH = 9.0  # inches
DPI = 160
SMALL, NORMAL = 7.5, 8.5  # points
LONGEST = 52  # characters of a panel's title


def new_figure(height: float, width: float = WIDTH) -> Any:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global, no window
    return figure


def styles(optimizers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and line of each optimizer, the same in every figure of a report."""
    kinds = [{"color": colour, "ls": style} for style in STYLES for colour in COLOURS]
    return dict(zip(optimizers, cycle(kinds), strict=False))


def tidy(axes: Any) -> None:
    """A frame of two lines and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.tick_params(labelsize=SMALL)
    axes.title.set_fontsize(SMALL)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_fontsize(NORMAL)


def legend_below(figure: Any, axes: Any, columns: int = 4) -> None:
    """One legend for all panels, under them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL)


def shortened(text: str, longest: int = LONGEST) -> str:
    """A title that fits; "$" is no mathematics here."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def save(figure: Any, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.pdf; the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf")]
    figure.savefig(files[0], format="png", metadata={"Software": None})
    figure.savefig(files[1], format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return files
