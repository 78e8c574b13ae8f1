"""docs/problems.md, generated from the cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADER = """# The named problems

Written by `python -m llm_problem_adapters.cards` from `llm_problem/suites/cards.json`; do not edit it by hand.
`llm_problem.suites.cards` says what a card's fields are; `llm-problem show ID` prints one. Losses are of the search
split, in the unit of the task. *reference*: what the reference optimizer reached, as the median of its runs; *best*:
the best that a gradient-free run has found; *gradient*: what Adam reached in the same subspace, given gradients. None
of them is known to be the optimum. The command of a reference is that of its first run. Instances (`ID@1`) have no
cards.
"""
RUNS = ("reference", "best", "gradient")
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
    for name, card in sorted(known["problems"].items(), key=_order):
        lines += ["", f"## {name}", "", *_whole(card)]
    return "\n".join(lines) + "\n"


def readable(card: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with texts in the places of targets and runs."""
    found = dict(card)
    marks = sorted(card["targets"].items(), key=_number)
    found["targets"] = ", ".join(f"{loss:.6g} ({int(number):,})" for number, loss in marks)
    for run in RUNS:
        if card.get(run):
            seeds = card[run].get("seeds")
            of = f", the median of seeds {', '.join(map(str, seeds))}" if seeds else ""
            found[run] = f"{card[run]['loss']:.6g}{of}: {card[run]['command']}"
    return found


def _whole(card: Mapping[str, Any]) -> list[str]:
    """What the table leaves out: settings, hashes, targets, and the commands that repeat the runs."""
    size = f"{card['search_examples']:,} examples, {card['search_tokens']:,} tokens"
    given = {k: v for k, v in card["subspace_settings"].items() if k != "kind" and v is not None}
    settings = ", ".join(f"{key} = {_short(value)}" for key, value in given.items())
    lines = [
        f"- Data: {card['data']}; search split: {size}; objective: {', '.join(card['objectives'])}",
        f"- Subspace: {card['subspace']}{f' ({settings})' if settings else ''}",
        f"- Licence: {card['licence']}",
        f"- Targets (evaluations of the reference): {readable(card)['targets']}",
    ]
    hashes = ("fingerprint", "weights_sha256", "basis_sha256", "tokens_sha256")
    lines += [f"- {key}: `{card[key]}`" for key in hashes if card.get(key)]
    commands = [f"{card[run]['command']}  # {run}: {card[run]['loss']:.6g}" for run in RUNS if card.get(run)]
    return [*lines, "", "```", *commands, "```"]


def _number(item: tuple[str, float]) -> int:
    return int(item[0])


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


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
