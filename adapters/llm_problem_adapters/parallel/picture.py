"""The simulated cluster's curve."""

from __future__ import annotations

from typing import Any


def draw(figures: dict[str, Any], path: str) -> None:
    """Evaluations a second against workers for each population, with the formula, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rows, evaluation = figures["rows"], figures["costs"]["evaluation"]
    for number, population in enumerate(sorted({row["population"] for row in rows})):
        chosen = [row for row in rows if row["population"] == population]
        workers = [row["workers"] for row in chosen]
        colour = f"C{number}"
        axes.plot(workers, [row["rate"] for row in chosen], "o", color=colour, label=f"population {population:,}")
        axes.plot(workers, [row["model"] for row in chosen], "--", color=colour, linewidth=1)
    ideal = sorted({row["workers"] for row in rows})
    axes.plot(ideal, [k / evaluation for k in ideal], ":", color="grey", label="all workers always at work")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="workers",
        ylabel="evaluations per second",
        title=f"Simulated cluster, an evaluation is a sleep of {1e3 * evaluation:g} ms (dashed: the formula)",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(path)
