"""What a person reads at the end: the card of a problem, the table of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from llm_problem.harmless import printable
from llm_problem.study.console import table_console
from llm_problem.study.runner import Outcome


def print_card(card: Mapping[str, Any], console: Console | None = None) -> None:
    """A card as two columns."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in card.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        table.add_row(name.replace("_", " "), _plain(repr(shown)[1:-1] if "\n" in shown else shown))
    (console or table_console()).print(table)


def print_outcome(outcome: Outcome, console: Console | None = None) -> None:
    """The table of a run: the pretrained model first, then the optimizers by their best search loss.

    The best point seen and the recommended one are two points: each has a column with its search loss, and what is
    held out was measured at the recommended one alone.
    """
    console = console or table_console()
    examples = outcome.pretrained["test"].get("examples")
    title = f"{outcome.problem}" + (f" (held out: {examples:.0f} examples)" if examples else "")
    table = Table(title=title, title_justify="left")
    table.add_column("optimizer", no_wrap=True)
    for column in (
        "best seen:\nsearch loss",
        "recommended:\nsearch loss",
        *(f"recommended:\nheld-out {name}" for name in outcome.metric_names),
        "evaluations",
        "seconds",
    ):
        table.add_column(column, justify="right")
    test = outcome.pretrained["test"]
    search = f"{outcome.pretrained['search_loss']:.4f}"
    table.add_row("pretrained", search, search, *_metrics(outcome, test), "1", "", end_section=True)
    for row in sorted(outcome.rows, key=_rank):
        if "error" in row:
            table.add_row(row["optimizer"], "failed")
            continue
        table.add_row(
            row["optimizer"]
            + (" (given gradients)" if row.get("used_gradients") else "")
            + ("" if row.get("feasible", True) else " (nothing feasible)"),
            f"{row['best_loss']:.4f}",
            f"{row['loss']:.4f}",
            *_metrics(outcome, row["test"]),
            str(row["evaluations"]),
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    name = outcome.metric_names[0]
    for row in outcome.rows:
        if found := row.get("change", {}).get(name):
            console.print(
                f"{row['optimizer']}: held-out {name} {found['before']:.4f} → {found['after']:.4f}, "
                f"{found['value']:+.4f}, 95% in [{found['low']:+.4f}, {found['high']:+.4f}]: {found['verdict']}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    if any(row.get("used_gradients") for row in outcome.rows):
        console.print("given gradients: a reference for gradient-free search, and none itself", highlight=False)
    for row in outcome.rows:  # what went wrong needs a whole line
        if "error" in row:
            failed = printable(f"{row['optimizer']} failed: {row['error']}")
            console.print(failed, markup=False, highlight=False, soft_wrap=True)
    if outcome.picture.exists():  # an interrupted run draws none
        console.print(printable(f"picture: {outcome.picture}"), markup=False, highlight=False, soft_wrap=True)
    console.print(f"all of it: {outcome.folder}", markup=False, highlight=False, soft_wrap=True)


def _rank(row: Mapping[str, Any]) -> tuple[bool, float]:
    """Runs that found something feasible first, and each by its best loss."""
    return not row.get("feasible", True), row.get("best_loss", float("inf"))


def _metrics(outcome: Outcome, test: Mapping[str, float]) -> list[str]:
    return [f"{test[name]:.4f}" if name in test else "" for name in outcome.metric_names]


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
