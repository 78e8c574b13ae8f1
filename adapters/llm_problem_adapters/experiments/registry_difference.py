"""`python -m llm_problem_adapters.experiments.registry_difference`: which optimizers work on a sphere, but not here?

Every optimizer of Nevergrad's registry minimises a plain sphere in Nevergrad itself, and a bundled problem in its
place: both in the same dimensions and bounds, with the same budget and seed. It works where it gives a finite point
inside the bounds, from exactly the evaluations of the budget. And every optimizer of ours, of Nevergrad, pymoo, pycma
and Optuna is put through `llm_problem.testing.check_optimizer`. Each runs in a child process with a time limit.

The set that works on the sphere less the set that works on the problem is printed, and must be empty.
"""

from __future__ import annotations

import argparse
import functools
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.testing import check_optimizer
from llm_problem_adapters.experiments.in_child import Child
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.registry import list_optimizers, make_optimizer, takes_gradients

PROBLEM = "tiny-gpt2-prose-lora-xs-d32-v1"
BUDGET = 40
LIMIT = 20.0  # seconds
KEY = ("what", "optimizer", "budget")
SPHERE, HERE, PROTOCOL = "sphere", "problem", "protocol"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print what was found; 0 where the difference is empty."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.registry_difference",
        description="Which optimizers work on a sphere, but not on a bundled problem?",
    )
    parser.add_argument("patterns", nargs="*", default=["*"], help='of names, such as "nevergrad:*DE"')
    parser.add_argument("--checks", nargs="+", default=[SPHERE, HERE, PROTOCOL], choices=[SPHERE, HERE, PROTOCOL])
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file of what was found; goes on where it was")
    options = parser.parse_args(arguments)
    records, child = Records(options.out, KEY), Child(attempt)
    matching = dict.fromkeys(name for pattern in options.patterns for name in list_optimizers(pattern))
    names = [name for name in matching if not takes_gradients(name)]
    found: dict[str, dict[str, str]] = {what: {} for what in options.checks}
    try:
        for name in names:
            for what in options.checks:
                if name in found.get(SPHERE, {}) and found[SPHERE][name]:
                    continue  # what fails there says nothing here
                if what == PROTOCOL or name.startswith("nevergrad:"):
                    found[what][name] = result(records, child, what, name, options.limit)
    finally:
        child.close()
    print(report(found))
    return 1 if difference(found) else 0


def result(records: Records, child: Child, what: str, name: str, limit: float) -> str:
    """What went wrong with an optimizer; nothing, where it works."""
    identity: Record = dict(zip(KEY, (what, name, BUDGET), strict=True))
    return records.run(identity, lambda: {"error": child.call(what, name, limit=limit)})["error"]


def attempt(what: str, name: str) -> str:
    """Run one optimizer, in the child: nothing, or what is wrong with its result; it may raise as well."""
    warnings.simplefilter("ignore")
    if what == PROTOCOL:
        # Many of the libraries' draw nothing, such as BFGS and Hammersley's points: one trajectory for all seeds.
        check_optimizer(functools.partial(make_optimizer, name), seeded=":" not in name)
        return ""
    import nevergrad as ng

    f = _function(what)
    asked: list[np.ndarray] = []

    def counted(x: np.ndarray) -> float:
        asked.append(np.array(x))
        return f(x)

    parametrization = f.parametrization.copy()
    parametrization.random_state.seed(12)
    optimizer = ng.optimizers.registry[name.removeprefix("nevergrad:")](parametrization, budget=BUDGET)
    x = optimizer.minimize(counted).value
    if len(asked) != BUDGET:
        return f"ValueError: {len(asked)} evaluations instead of {BUDGET}"
    if not (np.isfinite(x).all() and np.abs(x).max() <= 5):
        return "ValueError: the point recommended is outside the bounds"
    return ""


@functools.cache
def _function(what: str) -> Any:
    """Either function, as Nevergrad takes it."""
    import nevergrad as ng

    f = lp.make(PROBLEM).to_nevergrad()
    if what == HERE:
        return f
    return ng.functions.ExperimentFunction(lambda x: float(np.square(x - 0.5).sum()), f.parametrization.copy())


def difference(found: dict[str, dict[str, str]]) -> list[str]:
    """Names that work on the sphere and not here, and those that do not keep the protocol for another reason."""
    sphere, here = found.get(SPHERE, {}), found.get(HERE, {})
    return sorted(name for name in sphere if not sphere[name] and here.get(name))


def report(found: dict[str, dict[str, str]]) -> str:
    """Counts, what failed and why, and the difference."""
    titles = {SPHERE: "a sphere", HERE: PROBLEM, PROTOCOL: "check_optimizer"}
    lines = [
        f"{titles[what]}: {sum(not e for e in errors.values())} of {len(errors)} work" for what, errors in found.items()
    ]
    for what, errors in found.items():
        lines += [f"  {titles[what]}, {name}: {error[:150]}" for name, error in sorted(errors.items()) if error]
    less = difference(found)
    lines.append(f"work on a sphere and not on {PROBLEM}: {', '.join(less) or 'none'}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
