"""`write_report`: what came of a study as a static page, figures, and files for other programs.

report/index.html        the page; needs nothing but itself
report/figures/          each figure as PNG and PDF
report/data/*.csv        runs, trajectories, pairs of optimizers, ERT; *.parquet where pyarrow is installed
report/data/nevergrad.csv    with the columns of Nevergrad's benchmark
report/ioh/              a folder for each optimizer, which IOHanalyzer reads
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from llm_problem.study import generalising, tables
from llm_problem.study.attainment import Targets, targets
from llm_problem.study.figures import (
    convergence,
    correlation_matrix,
    critical_difference,
    ecdf_figure,
    profile_figure,
    save,
    share_curves,
    share_matrix,
)
from llm_problem.study.ioh_files import write_ioh
from llm_problem.study.ranking import Ranking, correlations, ranking
from llm_problem.study.report_problems import write_held_out, write_problems
from llm_problem.study.report_sections import begin_page, write_data, write_overview, write_ranks, write_runtimes
from llm_problem.study.results import Results, read


@dataclass(frozen=True)
class Report:
    """Where a report is, and what it could not be made of.

    Attributes:
        page: index.html.
        missing: runs that have not ended.
        failed: runs that failed.
        notes: files that were left out, and why.
    """

    page: Path
    missing: int
    failed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Findings:
    """A study's results with what follows from them."""

    results: Results
    targets: dict[str, Targets]
    rankings: dict[int, Ranking]  # by number of evaluations, the budget last

    @property
    def published(self) -> bool:
        """Whether targets and references are of the problems' cards, else of the study."""
        return all(target.frozen for target in self.targets.values())

    @property
    def last(self) -> Ranking:
        return self.rankings[self.results.budget]


def findings(results: Results) -> Findings:
    """Targets of every problem, and rankings after a tenth, three tenths and all of the budget."""
    wanted = targets(results)
    numbers = sorted({max(1, round(results.budget * share)) for share in (0.1, 0.3, 1.0)})
    return Findings(results, wanted, {number: ranking(results, number) for number in numbers})


def write_report(folder: str | os.PathLike[str]) -> Report:
    """Write the report of a study, finished or not, into its folder; one that is there is written anew.

    Raises:
        ValueError: this is no folder of a study, or no run of it has finished yet.
    """
    results = read(folder)
    if not results.runs:
        failed = f"; {len(results.failed)} failed, the first by {results.failed[0].error}" if results.failed else ""
        raise ValueError(f"no run of the study in {folder} has finished yet{failed}")
    found = findings(results)
    place = results.folder.path / "report"
    notes = write_files(found, place)
    page = begin_page(results)
    figures = draw(found, place / "figures")
    write_overview(page, found, figures)
    write_ranks(page, found, figures)
    write_runtimes(page, found, figures)
    write_problems(page, found, figures)
    write_held_out(page, found)
    write_data(page, found, place, notes)
    index = place / "index.html"
    part = index.with_name(".index.html.part")
    part.write_text(page.text, encoding="utf-8")
    part.replace(index)
    return Report(index, len(results.missing), len(results.failed), tuple(notes))


def draw(found: Findings, folder: Path) -> dict[str, Path]:
    """Write every figure that there is enough for; returns the PNG files by name."""
    results, wanted = found.results, found.targets
    problems, matrix = correlations(results)
    made = {
        "convergence": convergence(results),
        "shares": share_curves(results, wanted),
        "share-matrix": share_matrix(results, wanted),
        "ecdf": ecdf_figure(results, wanted),
        "profiles": profile_figure(results, wanted),
        "ranks": critical_difference(found.last),
        "correlations": correlation_matrix(problems, matrix)
        if len(problems) > 1 and len(results.competitors) > 2
        else None,
    }
    for stale in folder.glob("*.p[nd][gf]"):
        stale.unlink()
    return {name: save(figure, folder / name)[0] for name, figure in made.items() if figure is not None}


def write_files(found: Findings, place: Path) -> list[str]:
    """The tables and IOH's files; returns what was left out, in words."""
    results, wanted = found.results, found.targets
    data, notes = place / "data", list[str]()
    data.mkdir(parents=True, exist_ok=True)
    made = {
        "runs": tables.runs_table(results),
        "trajectories": tables.trajectories_table(results),
        "losses": tables.losses_table(results, wanted),
        "pairs": tables.pairs_table(results),
        "ert": tables.runtimes_table(results, wanted),
        "held-out": tables.held_out_table(results),
        "held-out-problems": generalising.by_problem(results),
        "held-out-optimizers": generalising.by_optimizer(results),
    }
    for name, table in made.items():
        table.write_csv(data / f"{name}.csv")
    try:
        for name, table in made.items():
            table.write_parquet(data / f"{name}.parquet")
    except ImportError as error:
        notes.append(f"No Parquet files: {error}.")
    tables.nevergrad_table(results).write_csv(data / "nevergrad.csv")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place / "ioh")
    write_ioh(results, place / "ioh")
    return notes
