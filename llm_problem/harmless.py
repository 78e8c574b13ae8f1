"""Names that others chose, made harmless where they are written: file names, cells of a table, a terminal."""

from __future__ import annotations

import hashlib
import re

_FORMULA = ("=", "+", "-", "@", "\n")  # what a spreadsheet takes for the start of a formula
_WORDS = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(:[A-Za-z][A-Za-z0-9_-]*)?")
_LONGEST = 100  # characters of a file name, its ending not counted


def safe_name(name: str) -> str:
    """A file name that stays in its folder; two different names give two different ones.

    Words with at most one colon between them keep theirs ("pymoo:DE" as pymoo.DE); any other gets the first digits of
    its hash behind what is left of it.
    """
    if len(name) <= _LONGEST and _WORDS.fullmatch(name):
        return name.replace(":", ".")
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:_LONGEST].strip("_-")
    return f"{stem or 'run'}.{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def plain_cell(text: str) -> str:
    """Text for a cell of a CSV file; one that a spreadsheet would take for a formula gets an apostrophe before it."""
    text = printable(text)  # a bare carriage return would be taken for the end of a row
    return f"'{text}" if text.startswith(_FORMULA) else text


def printable(text: str) -> str:
    """Text for a terminal: whatever would move its cursor or change its colours is written as an escape."""
    return "".join(c if c.isprintable() or c in " \n" else repr(c)[1:-1] for c in text)
