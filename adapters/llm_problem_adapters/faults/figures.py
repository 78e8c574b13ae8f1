"""What a fault test reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was done, how often, what came of it, and whether that is what was promised."""

    fault: str
    tried: str
    found: str
    kept: bool


def table(figures: Sequence[Figure]) -> str:
    """In Markdown, with a mark at what was not as promised."""
    head = "| fault | tried | what came of it |\n|---|---|---|"
    rows = [f"| {f.fault} | {f.tried} | {'' if f.kept else 'BROKEN: '}{f.found} |" for f in figures]
    return "\n".join([head, *rows])
