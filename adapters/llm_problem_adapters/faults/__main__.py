"""`python -m llm_problem_adapters.faults [--quick] [--json FILE] [PART …]`: one table; 1 if a promise was broken."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from llm_problem_adapters.faults.damage import damage
from llm_problem_adapters.faults.drivers import drivers
from llm_problem_adapters.faults.figures import Figure, table
from llm_problem_adapters.faults.full_disk import full_disk
from llm_problem_adapters.faults.killed_workers import killed_workers
from llm_problem_adapters.faults.kills import kills
from llm_problem_adapters.faults.misbehaving import misbehaving
from llm_problem_adapters.faults.objectives import DEEDS, VALUES
from llm_problem_adapters.faults.soak import soak

Part = Callable[[Path, bool], list[Figure]]  # folder, quick

# Evaluations of a run over workers, seconds between two kills, and those that an evaluation waits.
SHORT, LONG = (40, 0.5, 0.02), (500, 2.0, 0.3)

PARTS: dict[str, Part] = {
    "kills": lambda folder, quick: kills(folder, *((6, 2) if quick else (200, 50))),
    "damage": damage,
    "disk": lambda folder, quick: full_disk(folder, range(4096, 400_000, 90_000 if quick else 8_000)),
    "drivers": lambda folder, quick: drivers(folder),
    "values": lambda folder, quick: misbehaving(folder, [*VALUES, "raises"]),
    # A process is made anew for each evaluation that was killed: few of them.
    "deeds": lambda folder, quick: (
        misbehaving(folder, DEEDS[1:2], ("random-search",), 40) if quick else misbehaving(folder, DEEDS[1:], one_in=16)
    ),
    "workers": lambda folder, quick: killed_workers(folder, *(SHORT if quick else LONG)),
    "resized": lambda folder, quick: killed_workers(folder, *(SHORT if quick else LONG), resize=True),
    "soak": lambda folder, quick: soak(folder, 5_000 if quick else 100_000),
}


def main() -> int:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m llm_problem_adapters.faults", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="short forms")
    parser.add_argument("--json", metavar="FILE", help="keep the figures there; the table has those of before, too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    known: dict[str, list[Figure]] = {}  # part → figures
    if options.json and Path(options.json).exists():
        before = json.loads(Path(options.json).read_text(encoding="utf-8"))
        known = {name: [Figure(**figure) for figure in found] for name, found in before.items()}
    for name in options.parts or PARTS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[name](Path(folder), options.quick)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        known[name] = found
        if options.json:
            kept = {part: [asdict(figure) for figure in figures] for part, figures in known.items()}
            Path(options.json).write_text(json.dumps(kept, indent=2), encoding="utf-8")
    figures = [figure for name in PARTS for figure in known.get(name, ())]
    print(table(figures))
    return int(not all(figure.kept for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
