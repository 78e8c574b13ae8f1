"""A page of HTML that needs nothing but itself: numbered tables and figures, pictures inside it, every text escaped."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm_problem.harmless import printable

MANY = 10  # columns that fit at their usual size
FINE = 0.63  # of a picture's pixels, one on the page
STYLE = """
:root { --ink: #1a1a1a; --soft: #5a5a5a; --line: #c9c9c9; --accent: #0b4f8a; }
* { box-sizing: border-box; }
body { color: var(--ink); background: #fff; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; max-width: 62rem;
  font: 16px/1.5 Charter, "Bitstream Charter", "Source Serif Pro", "Noto Serif", Georgia, serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p, li { max-width: 48rem; }
.byline, figcaption, caption, .small { color: var(--soft); font-size: .9rem; }
a { color: var(--accent); }
nav ol { columns: 2; font-size: .95rem; padding-left: 1.4rem; }
figure { margin: 1.6rem 0; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption, caption { text-align: left; padding: .5rem 0; caption-side: top; }
figcaption b, caption b { color: var(--ink); }
.wide { overflow-x: auto; margin: 1.4rem 0; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.35; min-width: 40%;
  font-variant-numeric: tabular-nums; }
thead th { border-top: 1.6px solid var(--ink); border-bottom: 1px solid var(--ink); text-align: right;
  vertical-align: bottom; padding: .3rem .6rem; font-weight: 600; }
tbody td { padding: .18rem .6rem; text-align: right; white-space: nowrap; }
th.text, td.text { text-align: left; }
td.text:first-child { white-space: normal; }
td.long { white-space: normal; overflow-wrap: anywhere; }
tbody tr:last-child td { border-bottom: 1.6px solid var(--ink); }
tr.group td { border-top: 1px solid var(--line); padding-top: .5rem; font-weight: 600; }
td.best { font-weight: 700; }
.dense { font-size: .76rem; } .dense th, .dense td { padding-left: .25rem; padding-right: .25rem; }
.notice { border-left: 4px solid #d55e00; background: #fdf3ec; padding: .6rem 1rem; margin: 1.4rem 0; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
code { font: .88em "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; } details { display: block; } figure, tr { break-inside: avoid; } }
"""


class Right(str):
    """A text that stands right, as numbers do."""


class Bold(Right):
    """One that is set in bold, too."""


class Page:
    """Collects sections; `text` is the whole page.

    Args:
        title: above everything.
        byline: a line under it.
    """

    def __init__(self, title: str, byline: str) -> None:
        self.title, self.byline = title, byline
        self._parts: list[str] = []
        self._sections: list[str] = []
        self._figures = self._tables = 0

    def section(self, title: str) -> None:
        self._sections.append(title)
        self._parts.append(f'<h2 id="s{len(self._sections)}">{len(self._sections)}. {_text(title)}</h2>')

    def heading(self, title: str) -> None:
        self._parts.append(f"<h3>{_text(title)}</h3>")

    def paragraph(self, text: str) -> None:
        self._parts.append(f"<p>{_text(text)}</p>")

    def notice(self, text: str, items: Sequence[str] = ()) -> None:
        """What a reader must not overlook."""
        lines = "".join(f"<li>{_text(item)}</li>" for item in items)
        self._parts.append(f'<div class="notice"><p>{_text(text)}</p>{f"<ul>{lines}</ul>" if lines else ""}</div>')

    def links(self, before: str, files: Sequence[tuple[str, str]]) -> None:
        """A paragraph with links to files beside the page, (relative path, what it is)."""
        words = ", ".join(f'<a href="{escape(path)}">{_text(what)}</a>' for path, what in files)
        self._parts.append(f"<p>{_text(before)} {words}.</p>")

    def figure(self, png: Path, pdf: str, caption: str) -> None:
        """A picture inside the page, with a link to its PDF (a relative path)."""
        self._figures += 1
        content = png.read_bytes()
        data = base64.b64encode(content).decode()
        # The width in a PNG's header, shown so that letters are as large in every figure, and sharp on fine screens.
        size = f' width="{round(int.from_bytes(content[16:20], "big") * FINE)}"'
        self._parts.append(
            f'<figure><img alt="{_text(caption)}"{size} src="data:image/png;base64,{data}">'
            f"<figcaption><b>Figure {self._figures}.</b> {_text(caption)} "
            f'<a href="{escape(pdf)}">PDF</a></figcaption></figure>'
        )

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        caption: str,
        *,
        folded: bool = False,
        group: int | None = None,
    ) -> None:
        """A table; texts stand left, numbers right.

        Args:
            columns: its heads.
            rows: texts, numbers (as `number` writes them), None.
            caption: with a number before it.
            folded: whether it is shown when it is asked for.
            group: a column of texts, shown as a line of its own above the rows that have the same.
        """
        self._tables += 1
        groups = [None if group is None else row[group] for row in rows]
        if group is not None:
            columns, *rows = ([*row[:group], *row[group + 1 :]] for row in (columns, *rows))
        # A column whose first cell is a text stands left.
        left = [
            any(isinstance(row[k], str) and not isinstance(row[k], Right) for row in rows) for k in range(len(columns))
        ]
        head = "".join(f"<th{' class=text' if a else ''}>{_text(c)}</th>" for c, a in zip(columns, left, strict=True))
        body = list[str]()
        for (before, name), row in zip(pairwise([None, *groups]), rows, strict=True):
            if name != before:
                body.append(f'<tr class="group"><td class="text" colspan="{len(columns)}">{_shown(name)}</td></tr>')
            cells = (f"<td{_kind(cell, a)}>{_shown(cell)}</td>" for cell, a in zip(row, left, strict=True))
            body.append(f"<tr>{''.join(cells)}</tr>")
        dense = ' class="dense"' if len(columns) > MANY else ""
        table = (
            f'<div class="wide"><table{dense}><caption><b>Table {self._tables}.</b> {_text(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )
        name = f"Table {self._tables}: {caption.partition('.')[0]}"
        self._parts.append(f"<details><summary>{_text(name)}</summary>{table}</details>" if folded else table)

    @property
    def text(self) -> str:
        """The page."""
        items = "".join(f'<li><a href="#s{k}">{_text(t)}</a></li>' for k, t in enumerate(self._sections, 1))
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            # Whatever the texts hold, the page loads nothing and runs nothing.
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            "style-src 'unsafe-inline'\">"
            f"<title>{_text(self.title)}</title><style>{STYLE}</style></head>\n<body><h1>{_text(self.title)}</h1>"
            f'<p class="byline">{_text(self.byline)}</p><nav><ol>{items}</ol></nav>\n'
            + "\n".join(self._parts)
            + "\n</body></html>\n"
        )


def number(value: float | None, digits: int = 4) -> str:
    """Such as 0.4821, 1,280 or 3.2e-05; a dash where there is none, ∞ where it is infinite."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    text = f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.{digits}g}"
    return text.replace("-", "−") if not text.startswith("-") or "e" not in text else text


def _text(text: str) -> str:
    return escape(printable(str(text)))


def _kind(cell: Any, left: bool) -> str:
    names = [
        name
        for name, is_so in (("text", left), ("best", isinstance(cell, Bold)), ("long", len(str(cell)) > 70))
        if is_so
    ]
    return f' class="{" ".join(names)}"' if names else ""


def _shown(cell: Any) -> str:
    return _text(cell if isinstance(cell, str) else number(cell))
