"""The command line of the benchmarks: which sections, how long, printed and written."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from llm_problem.benchmarks import comparison, gemm, memory, precision, profiling, tiny, writing
from llm_problem.benchmarks.machine import heading, machine
from llm_problem.benchmarks.report import FiguresFile, Report, print_report
from llm_problem.benchmarks.settings import Settings
from llm_problem.models.cache import say
from llm_problem.study.console import table_console

Section = Callable[[Settings], Report]

SECTIONS: dict[str, Section] = {
    "layers": comparison.layers,
    "gemm": gemm.gemm,
    "memory": memory.memory,
    "lm": comparison.lm,
    "tiny": tiny.tiny,
    "profile": profiling.profile_section,
    "precision": precision.precision,
    "generation": writing.generation,
}
QUICK = {"sentences": 8, "windows": 4, "rounds": 2, "least": 0.02}


def main(
    arguments: Sequence[str] | None = None,
    *,
    prog: str = "python -m llm_problem.benchmarks",
    sections: Mapping[str, Section] = SECTIONS,
    needs_model: bool = True,
) -> int:
    """Run sections; returns the exit code (2 for bad input).

    Args:
        arguments: of the command line; None for the process's own.
        prog: how the command is called.
        sections: by name, all that there are, in the order in which they run.
        needs_model: whether model and data are looked at before anything runs.
    """
    parser = _parser(prog, sections)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in sections]
    if unknown:
        parser.error(f"unknown section {', '.join(unknown)}: there are {', '.join(sections)}")
    try:
        settings = _settings(options)
        if needs_model:
            settings.check()
        facts = machine()
        head = {"machine": facts, "settings": dataclasses.asdict(settings)}
        file = None if options.json is None else FiguresFile(options.json, head)
    except ValueError as error:
        parser.error(str(error))
    console = table_console()
    console.print(heading(facts), markup=False, highlight=False)
    console.print()
    for name in [name for name in sections if not options.sections or name in options.sections]:
        say(f"section {name}")
        report = sections[name](settings)
        print_report(report, console)
        if file is not None:
            file.add(name, report.figures)
    return 0


def _parser(prog: str, sections: Mapping[str, Section]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Measure what one evaluation costs, and where it goes.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(sections)}; all by default")
    parser.add_argument("--quick", action="store_true", help="fewer sentences, windows, layers and turns")
    parser.add_argument("--rounds", type=int, metavar="N", help="turns of each contestant")
    parser.add_argument("--layers", type=int, nargs="+", metavar="K", default=[], help="how many last layers to search")
    parser.add_argument("--model", default=Settings.model, help="a name, a directory or a hub id")
    parser.add_argument("--sentences", type=int, metavar="N", help="search examples of the label task")
    parser.add_argument("--windows", type=int, metavar="N", help="search windows of the language-modelling task")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="train.csv, dev.csv, test.csv with columns text, label (SST-2)"
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text to model instead of the embedded prose")
    parser.add_argument("--json", metavar="FILE", help="write all raw figures to a new file")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """What was given, else what --quick says, else the defaults."""
    given = {name: getattr(options, name) for name in ("sentences", "windows", "rounds")}
    chosen = {name: value for name, value in given.items() if value is not None}
    return Settings(
        model=options.model,
        layers=tuple(options.layers),
        data=options.data,
        text=options.text,
        quick=options.quick,
        **{**(QUICK if options.quick else {}), **chosen},
    )
