"""Measure the units of the named problems: `python -m llm_problem.suites.units [PATTERN]`.

Named problems ship their units as data (`named`), so that one name means one function on every machine. Whoever adds
one, or changes the amount that predictions are to move by, puts in what this prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from llm_problem.problem import Problem
from llm_problem.registry import get_spec, list_problems


def measured_units(id: str) -> tuple[float, ...]:
    """What a named problem's units are when they are measured here."""
    units = Problem.from_spec(dataclasses.replace(get_spec(id), units=None)).spec.units
    assert units is not None
    return units


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the units of each problem; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem.suites.units", description="Measure the units of the named problems."
    )
    parser.add_argument("pattern", nargs="?", default="*", help="of ids, with * and ?")
    for id in list_problems(parser.parse_args(arguments).pattern):
        print(f"{id}: {measured_units(id)}, in its description {get_spec(id).units}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
