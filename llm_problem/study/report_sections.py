"""The sections of a study's page: what was done, who is ahead, where, how soon, and what holds on other data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_problem.study import tables
from llm_problem.study.html import Bold, Page, Right, number
from llm_problem.study.ranking import DIAGRAM_PROBLEMS, FEWEST_PROBLEMS, LEVEL
from llm_problem.study.results import Results

if TYPE_CHECKING:
    from llm_problem.study.study_report import Findings

FIRST = 12  # runs that failed or are missing, which are named


def begin_page(results: Results) -> Page:
    """The page with what was compared and how."""
    study = results.study
    page = Page(
        f"Comparison study: {study.name}",
        f"{len(study.optimizers)} optimizers × {len(study.problems)} problems × {len(study.seeds)} seeds × "
        f"{study.budget:,} evaluations; {results.runs:,} of {study.runs:,} runs",
    )
    page.section("What was compared")
    if results.missing:
        rest = len(results.missing) - FIRST
        first = [*results.missing[:FIRST], *([f"and {rest:,} more"] if rest > 0 else [])]
        page.notice(f"This study is not finished: {len(results.missing):,} of {study.runs:,} runs are missing.", first)
    if results.failed:
        said = [f"{run.optimizer} on {run.problem}, seed {run.seed}: {run.error}" for run in results.failed[:FIRST]]
        rest = len(results.failed) - FIRST
        page.notice(f"{len(results.failed):,} runs failed.", [*said, *([f"and {rest:,} more"] if rest > 0 else [])])
    page.paragraph(
        f"{study.policy.sentence()} Every run has {study.budget:,} evaluations, x = 0 included. Optimizers see the "
        "search split only; losses are of that split unless a table says otherwise, and smaller is better."
    )
    if results.given_gradients:
        page.paragraph(
            f"{', '.join(sorted(results.given_gradients))}: given gradients, each charged as several evaluations. They "
            "are references, and no rank or test counts them."
        )
    rows = [
        (
            entry.name,
            facts["task"],
            facts["subspace"],
            facts["dimension"],
            facts["f0"],
            facts["unit"] or facts["objective"],
        )
        for entry in study.problems
        if (facts := results.facts.get(entry.name))
    ]
    columns = ("problem", "task", "subspace", "d", "f(0)", "unit")
    page.table(columns, rows, "The problems. f(0) is the loss of the pretrained model.")
    named = [(o.label, o.name, ", ".join(f"{k} = {v}" for k, v in o.options.items()) or "–") for o in study.optimizers]
    page.table(("optimizer", "name", "options"), named, "The optimizers.", folded=True)
    return page


def write_overview(page: Page, found: Findings, figures: Mapping[str, Path]) -> None:
    """Shares of what there is to gain, over all problems."""
    results = found.results
    page.section("Who is ahead, over all problems")
    of_study = "this study, the lowest median of its optimizers at the budget"
    source = "the problem's published card" if found.published else of_study
    page.paragraph(
        "The share of f(0) − f(reference) is 0 at the pretrained model and 1 at the reference; the reference is of "
        f"{source}. It is no optimum, and can be passed. Intervals are 95% percentile intervals of the interquartile "
        "mean, from drawing each problem's seeds anew: they say how it varies with seeds, not with problems."
    )
    table = tables.overview_table(results, found.targets, found.rankings)
    numbers = list(found.rankings)
    rows = []
    for row in table.rows:
        cells: list[Any] = [row[0] + (" (given gradients)" if row[0] in results.given_gradients else "")]
        for k in range(len(numbers)):
            share, low, high, rank = row[1 + 4 * k : 5 + 4 * k]
            cells += [f"{number(share, 3)} [{number(low, 3)}, {number(high, 3)}]", number(rank, 3)]
        rows.append((row[-4] if row[-4] == row[-4] else -np.inf, cells))
    ordered = [[cells[0], *map(number_cell, cells[1:])] for _, cells in sorted(rows, key=lambda r: -r[0])]
    heads = [head for n in numbers for head in (f"share at {n:,}", "mean rank")]
    page.table(("optimizer", *heads), ordered, "Interquartile mean of the share, with its interval, and mean rank.")
    if "shares" in figures:
        page.figure(
            figures["shares"], pdf_of("shares"),
            "Interquartile mean over problems and seeds of the share of f(0) − f(reference), with a 95% band.",
        )  # fmt: skip
    if "share-matrix" in figures:
        page.figure(
            figures["share-matrix"], pdf_of("share-matrix"),
            "Median share at the budget, by problem and optimizer.",
        )  # fmt: skip
    winners = tables.winners_table(results, numbers)
    page.table(
        ("problem", "d", *(f"after {n:,}" for n in numbers)),
        winners.rows,
        "The optimizer with the lowest median loss on each problem. It need not be better than the next one: see the "
        "tests.",
    )


def write_ranks(page: Page, found: Findings, figures: Mapping[str, Path]) -> None:
    """Friedman's test, the diagram, correlations between problems."""
    ranks, results = found.last, found.results
    page.section("Ranks across problems")
    if not ranks.tested:
        page.paragraph(
            f"Ranks over {len(ranks.problems)} problem(s) that every optimizer has runs of are described and not "
            f"tested: Friedman's test takes {FEWEST_PROBLEMS} problems and three optimizers here."
        )
    else:
        words = "differ" if ranks.p < LEVEL else "cannot be told apart"
        page.paragraph(
            f"Friedman's test, {len(ranks.problems)} problems as blocks: χ² = {number(ranks.statistic)}, p = "
            f"{number(ranks.p, 2)}: by this test the {len(ranks.optimizers)} optimizers {words}. Two are compared "
            "by Wilcoxon's signed ranks of log(loss / f(0)), with Holm's correction for all "
            f"{_pairs(ranks.optimizers)} pairs. Problems share models and data, so that they are not independent "
            "draws: read p-values as a description of this set of problems."
        )
        order = list(np.argsort(ranks.mean, kind="stable"))
        rows = [
            [f"{place}. {ranks.optimizers[i]}", Right(number(float(ranks.mean[i]), 3))]
            + [Right("") if i == j else number_cell(p_cell(ranks.together[i, j])) for j in order]
            for place, i in enumerate(order, start=1)
        ]
        page.table(
            ("optimizer", "mean rank", *(str(k + 1) for k in range(len(order)))),
            rows,
            f"p-values of two optimizers, corrected; those below {LEVEL} are bold.",
        )
    if "ranks" in figures:
        page.figure(
            figures["ranks"], pdf_of("ranks"),
            "Critical-difference diagram: mean ranks; a bar joins optimizers no two of which differ at "
            f"{LEVEL} after Holm's correction.",
        )  # fmt: skip
    elif ranks.tested:
        page.paragraph(f"A critical-difference diagram is drawn from {DIAGRAM_PROBLEMS} problems on.")
    if "correlations" in figures:
        page.figure(
            figures["correlations"], pdf_of("correlations"),
            "Spearman's rank correlation between problems of how the optimizers come out: two problems with a "
            "correlation of 1 say the same of these optimizers.",
        )  # fmt: skip
    if results.missing and len(ranks.problems) < len(results.problems):
        page.paragraph(
            f"Left out, since an optimizer lacks runs: {len(results.problems) - len(ranks.problems)} problems."
        )


def write_runtimes(page: Page, found: Findings, figures: Mapping[str, Path]) -> None:
    """Evaluations to targets."""
    results = found.results
    page.section("Evaluations to targets")
    of_study = "the lowest median of this study's optimizers has"
    source = "the reference of the problem's published card has" if found.published else of_study
    page.paragraph(
        f"No optimum is known, so that targets are run-length based: the losses that {source} after 10, 20, "
        "50, … evaluations. ERT is the number of evaluations of all runs until they "
        "reached the target or ended, over the runs that reached it."
    )
    for name, text in (
        ("ecdf", "Share of targets, over problems and seeds, reached within so many evaluations."),
        (
            "profiles",
            "Performance profiles of ERT: the share of targets that an optimizer reaches for at most so many times the "
            "evaluations of the best one.",
        ),
    ):
        if name in figures:
            page.figure(figures[name], pdf_of(name), text)
    table = tables.runtimes_table(results, found.targets)
    for problem, group in groupby(table.rows, key=lambda row: row[0]):
        rows = list(group)
        marks = sorted({(row[2], row[3]) for row in rows})
        best = {mark: min(row[4] for row in rows if row[2] == mark[0]) for mark in marks}
        lines = []
        for optimizer in results.optimizers:
            mine = {row[2]: row for row in rows if row[1] == optimizer}
            if mine:
                cells = [_ert(mine[n], best[n, loss]) for n, loss in marks]
                lines.append([optimizer, *cells])
        heads = [f"{number(loss)} ({n:,})" for n, loss in marks]
        caption = f"ERT on {problem}, and how many runs reached it. Heads: the target, and the reference's evaluations."
        page.table(("optimizer", *heads), lines, caption, folded=True)


def write_data(page: Page, found: Findings, place: Path, notes: Sequence[str]) -> None:
    """Where the numbers are, and with what they were made."""
    page.section("Data and versions")
    files = sorted(path for path in (place / "data").iterdir() if path.is_file())
    page.links("Tables:", [(os.path.relpath(path, place), path.name) for path in files])
    page.paragraph("The folder ioh holds one folder for each optimizer, which IOHanalyzer reads.")
    for note in notes:
        page.paragraph(note)
    page.paragraph(
        "trajectories has a row for each improvement, from which every figure here follows. The records in the study's "
        "folder runs hold every evaluation. The same study gives the same tables again, columns of seconds aside, on "
        "one kind of machine with the same versions."
    )
    found_versions = found.results.folder.versions()
    page.table(("library", "version"), [(k, str(v)) for k, v in found_versions.items()], "Versions.", folded=True)


def pdf_of(name: str) -> str:
    return f"figures/{name}.pdf"


def number_cell(text: Any) -> Any:
    return text if not isinstance(text, str) or isinstance(text, Right) else Right(text)


def p_cell(value: float | None) -> str:
    """A p-value; one below the level is bold."""
    text = number(value, 2) if value is None or value >= 1e-4 else "<1e−4"
    return Bold(text) if value is not None and value < LEVEL else text


def _ert(row: Sequence[Any], best: float) -> Any:
    ert, reached, runs = row[4:7]
    if not np.isfinite(ert):
        return Right("–")
    text = f"{number(ert)} ({reached}/{runs})"
    return Bold(text) if ert == best else Right(text)


def _pairs(names: Sequence[str]) -> int:
    return len(names) * (len(names) - 1) // 2
