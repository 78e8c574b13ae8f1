"""`llm-problem compare | report`, and the long form of `list`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from llm_problem import suites
from llm_problem.harmless import printable


def compare_command(options: argparse.Namespace, compare: Callable[..., Any]) -> int:
    """Run a study by `llm_problem_adapters.study.compare`; returns the exit code."""
    from llm_problem.study.config import Study
    from llm_problem.study.results import read

    study = Study.from_toml(options.study)
    out = options.out or f"runs/{study.name}"
    words = ["llm-problem", "compare", options.study, "--out", out, "--workers", str(options.workers)]
    words += ["--fail-fast"] if options.fail_fast else []
    options.stopped.advice = go_on = f"to go on: {shlex.join(words)}"
    found = compare(study, out, workers=options.workers, fail_fast=options.fail_fast)
    ended = len(found.ended) - len(found.failed)
    print(f"{found.found + ended} of {found.runs} runs have finished, {ended} of them now: {found.folder}")
    for busy in found.busy:
        print(f"llm-problem: {printable(busy)}", file=sys.stderr)
    if found.failed:
        print(f"llm-problem: {len(found.failed)} runs failed; the same command tries them again", file=sys.stderr)
    if found.exit_code:
        print(go_on, file=sys.stderr)
    if read(found.folder).runs:
        print(f"llm-problem report {shlex.quote(str(found.folder))} writes it up")
    return found.exit_code


def report_command(options: argparse.Namespace) -> int:
    """Write a study's report; returns the exit code."""
    from llm_problem.study.study_report import write_report

    done = write_report(options.folder)
    if done.missing or done.failed:
        print(f"{done.missing} runs are missing, {done.failed} failed: the page says which")
    for note in done.notes:
        print(note)
    print(done.page)
    return 0


def print_problems(names: Sequence[str]) -> None:
    """A table of problems, with the figures of those that have a card."""
    from rich.table import Table

    from llm_problem.study.console import table_console

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("problem", no_wrap=True)
    for column in ("f(0)", "reference", "best", "ms"):
        table.add_column(column, justify="right")
    table.add_column("best by", no_wrap=True)
    for name in names:
        card = suites.card(name)
        if card is None:
            table.add_row(name)
        else:
            figures = (card["f0"], card["reference"]["loss"], card["best"]["loss"])
            by = f"{card['best']['optimizer']}, {card['best']['budget']}"
            table.add_row(name, *(f"{figure:.4f}" for figure in figures), f"{card['milliseconds']:g}", by)
    table_console().print(table)
