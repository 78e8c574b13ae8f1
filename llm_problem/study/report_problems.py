"""The sections of a study's page on single problems, and on examples that no optimizer saw."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_problem.study import generalising, tables
from llm_problem.study.html import Page, Right, number
from llm_problem.study.ranking import FEWEST_SEEDS, LEVEL, against_leader, too_few_seeds
from llm_problem.study.report_sections import number_cell, p_cell, pdf_of

if TYPE_CHECKING:
    from llm_problem.study.study_report import Findings


def write_problems(page: Page, found: Findings, figures: Mapping[str, Path]) -> None:
    """Convergence, and tests over seeds, problem by problem."""
    results = found.results
    page.section("Problem by problem")
    if "convergence" in figures:
        page.figure(
            figures["convergence"], pdf_of("convergence"),
            "Best loss so far: median over seeds, and the middle half as a band.",
        )  # fmt: skip
    page.paragraph(
        "Two optimizers are compared by Mann and Whitney's test over seeds, with Holm's correction for all pairs of "
        "the problem. The effect is Vargha and Delaney's A, the probability that a run of the optimizer ends lower "
        "than one of the problem's leader, the first of those that are tested (0.5: alike). Fewer than "
        f"{FEWEST_SEEDS} seeds are described and not tested."
    )
    if too_few_seeds(results):
        page.paragraph(
            f"{len(results.study.seeds)} seeds are too few for a p below {LEVEL} after the correction for so many "
            "pairs, however far apart their runs are: A and the quartiles say what there is to say."
        )
    for optimizer in results.competitors:
        if alike := [problem for problem in results.problems if results.draws_nothing(problem, optimizer)]:
            where = "every problem" if len(alike) == len(results.problems) else ", ".join(alike)
            page.paragraph(
                f"{optimizer} draws nothing on {where}: its runs are the same for every seed, which makes them one "
                "run, described and not tested."
            )
    rows: list[list[Any]] = []
    table = tables.losses_table(results, found.targets)
    for problem, group in groupby(table.rows, key=lambda row: row[0]):
        lines = sorted(group, key=lambda row: row[3])
        tests = against_leader(results, problem)
        for row in lines:
            effect, p = tests.get(row[1], (None, None))
            half, share = f"[{number(row[4])}, {number(row[5])}]", number(row[7], 3)
            line = [problem, row[1], row[2], row[3], Right(half), row[6], Right(share)]
            # Two decimals for A, which of 15 seeds each is known no better.
            rows.append([*line, Right("–" if effect is None else f"{effect:.2f}"), number_cell(p_cell(p))])
    columns = ("problem", "optimizer", "runs", "median", "middle half", "best", "share", "A", "p (Holm)")
    page.table(columns, rows, "Best losses at the budget, and each optimizer against the problem's leader.", group=0)


def write_held_out(page: Page, found: Findings) -> None:
    """What the recommended points are worth on examples that no optimizer saw."""
    page.section("On examples that no optimizer saw")
    results = found.results
    table = tables.held_out_table(results)
    if not table.rows:
        page.paragraph("These tasks hold out nothing, or no run has been measured on it.")
        return
    page.paragraph(
        "The recommended point of each run on the test split, beside the pretrained model. The search split is small, "
        "so that a lower search loss need not be a better model."
    )
    page.table(
        ("optimizer", "better on", "of problems", "change of test loss"),
        [
            [*row[:3], Right(f"{100 * row[3]:+.1f}%".replace("-", "−"))]
            for row in generalising.by_optimizer(results).rows
        ],
        "On how many problems an optimizer's median test loss is below the pretrained model's, and by how much it "
        "changes in the middle of the problems.",
    )
    page.table(
        ("problem", "pretrained", "lowest median", "by", "runs below", "of", "correlation"),
        [
            [*row[:6], None if row[6] is None else Right(f"{row[6]:.2f}".replace("-", "−"))]
            for row in generalising.by_problem(results).rows
        ],
        "Test losses. How many of all runs end below the pretrained model's, and Spearman's correlation of their "
        "search losses with their test losses: 1 where a better search is a better model, −1 where it is a worse one.",
    )
    rows = [
        [row[0], row[1], row[2], row[3], row[4], number_cell(f"[{number(row[5])}, {number(row[6])}]")]
        for row in table.rows
    ]
    columns = ("problem", "optimizer", "metric", "pretrained", "median", "middle half")
    page.table(columns, rows, "Test metrics of the recommended points.", folded=True, group=0)
