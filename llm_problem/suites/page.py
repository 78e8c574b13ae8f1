"""docs/problems.md, generated from the cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = """# The named problems

Written by `python -m llm_problem_adapters.cards` from `llm_problem/suites/cards.json`; do not edit it by hand.
`llm-problem show ID` prints a card whole, hashes and targets included; `llm_problem.suites.cards` says what its fields
are. Losses are of the search split, in the unit of the task. *reference*: what the reference optimizer reached, as the
median of its runs; *best*: the best that a gradient-free run has found; *gradient*: what Adam reached in the same
subspace, given gradients. None of them is known to be the optimum.
"""
COLUMNS = ("problem", "task", "subspace", "d", "f(0)", "reference", "best", "by", "gradient", "ms")


def page(known: Mapping[str, Any]) -> str:
    """The page as Markdown, from what cards.json holds."""
    lines = [HEADER]
    machine = known.get("machine") or {}
    if machine:
        where = f"ms: processor time of an evaluation on {machine['processor']}"
        lines.append(f"{where}; it says what is large and what is small, no more.\n")
    lines += [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---:|---:|---:|---:|---|---:|---:|"]
    lines += [f"| {' | '.join(_row(name, card))} |" for name, card in sorted(known["problems"].items(), key=_order)]
    lines.append("\n## Commands\n\nThe run that found the best observed loss:\n\n```")
    lines += [card["best"]["command"] for _, card in sorted(known["problems"].items(), key=_order)]
    lines.append("```")
    return "\n".join(lines) + "\n"


def _order(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, str]:
    return item[0].startswith("smollm2"), item[0]


def _row(name: str, card: Mapping[str, Any]) -> list[str]:
    reference, best, gradient = card["reference"], card["best"], card.get("gradient")
    return [
        f"`{name}`",
        name.removeprefix(f"{card['model']}-").partition("-")[0],
        card["subspace"],
        f"{card['dimension']:,}",
        f"{card['f0']:.4f}",
        f"{reference['loss']:.4f} ({reference['optimizer']}, {reference['budget']:,} × {len(reference['seeds'])})",
        f"{best['loss']:.4f}",
        f"{best['optimizer']}, {best['budget']:,}, seed {best['seed']}",
        f"{gradient['loss']:.4f} ({gradient['budget']:,})" if gradient else "",
        f"{card['milliseconds']:g}",
    ]
