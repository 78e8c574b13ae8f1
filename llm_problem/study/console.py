"""Where tables are printed."""

from __future__ import annotations

from rich.console import Console


def table_console() -> Console:
    """Standard output; wide enough for whole tables where that is a file or a pipe, which has no width."""
    console = Console()
    return console if console.is_terminal else Console(width=140)
