"""What a fault test reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was done, what came of it, and whether that is what was promised."""

    fault: str
    found: str
    kept: bool
