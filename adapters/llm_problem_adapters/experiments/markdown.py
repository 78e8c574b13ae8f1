"""Tables of experiments as Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table; `right` says which columns are aligned to the right, as numbers are."""
    lines = [header, ["---:" if to_the_right else "---" for to_the_right in right], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
