"""`python -m llm_problem_adapters.experiments.registry_difference`: which optimizers work on a sphere, but not here?

Every optimizer of Nevergrad's registry minimises a plain sphere in Nevergrad itself, and a bundled problem in its
place: both in the same dimensions and bounds, with the same budget and seed. Those of pymoo do so in pymoo, those of
Optuna, pycma and our own in `minimize`. Then each goes through `minimize` on the problem, and through
`llm_problem.testing.check_optimizer`. Each runs in a child process with a time limit.

It works where it recommends a finite point inside the bounds, after the evaluations of the budget: exactly those in
Nevergrad and in `minimize`, where the first is x0 with `start_at_x0` and another point without.

The set that works on the sphere less the set that works on the problem, in its own library and in `minimize`, is
printed and must be empty.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import importlib
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import llm_problem as lp
from llm_problem.testing import check_optimizer
from llm_problem_adapters.experiments.in_child import Child
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.registry import list_optimizers, make_optimizer

PROBLEM = "tiny-gpt2-prose-lora-xs-d32-v1"
BUDGET, SEED = 40, 12
LIMIT = 20.0  # seconds of the processor
KEY = ("what", "optimizer", "budget")
SPHERE, HERE, DRIVEN, PROTOCOL = "sphere", "problem", "minimize", "protocol"
TITLES = {SPHERE: "a sphere", HERE: PROBLEM, DRIVEN: f"{PROBLEM} in minimize", PROTOCOL: "check_optimizer"}
QUICK = (  # each kind that there is
    *("OnePlusOne", "NoisyDiscreteOnePlusOne", "TwoPointsDE", "PSO", "CMA", "TBPSA", "EDA", "NGOpt", "NgIohTuned"),
    *("MetaModel", "Cobyla", "SQP", "LHSSearch", "ScrHammersleySearch", "SPSA", "Portfolio", "ChainCMAPowell"),
    *("LogSQPCMA", "ES", "RotatedTwoPointsDE"),
)
QUICK_OTHERS = ("pymoo:ES", "pymoo:NelderMead", "optuna:TPESampler", "cma", "genetic-algorithm", "spsa")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print what was found; 0 where the difference is empty."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.registry_difference",
        description="Which optimizers work on a sphere, but not on a bundled problem?",
    )
    parser.add_argument("patterns", nargs="*", default=["*"], help='of names, such as "nevergrad:*DE"')
    parser.add_argument("--quick", action="store_true", help="some of every kind instead")
    parser.add_argument("--checks", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--limit", type=float, default=LIMIT, help="processor seconds of a run (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file of what was found; goes on where it was")
    options = parser.parse_args(arguments)
    records, child = Records(options.out, KEY), Child(attempt)
    patterns = [*(f"nevergrad:{name}" for name in QUICK), *QUICK_OTHERS] if options.quick else options.patterns
    names = dict.fromkeys(name for pattern in patterns for name in list_optimizers(pattern, gradients=False))
    found: dict[str, dict[str, str]] = {what: {} for what in options.checks}
    try:
        for name in names:
            for what in options.checks:
                if what in (HERE, DRIVEN) and found.get(SPHERE, {}).get(name):
                    continue  # what fails there says nothing here
                found[what][name] = result(records, child, what, name, options.limit)
    finally:
        child.close()
    print(report(found, {} if options.quick else not_installed(patterns)))
    return 1 if difference(found) else 0


def result(records: Records, child: Child, what: str, name: str, limit: float) -> str:
    """What went wrong with an optimizer; nothing, where it works."""
    identity: Record = dict(zip(KEY, (what, name, BUDGET), strict=True))
    runs = 2 if what == DRIVEN else 1
    return records.run(identity, lambda: {"error": child.call(what, name, limit=runs * limit)})["error"]


def attempt(what: str, name: str) -> str:
    """Run one optimizer, in the child: nothing, or what is wrong with its result; it may raise as well."""
    warnings.simplefilter("ignore")
    if what == PROTOCOL:
        # Many of the libraries' draw nothing, such as BFGS and Hammersley's points: one trajectory for all seeds.
        check_optimizer(functools.partial(make_optimizer, name), seeded=":" not in name)
        return ""
    library = name.partition(":")[0]
    if what != DRIVEN and library == "nevergrad":
        return _in_nevergrad(what, name.partition(":")[2])
    if what != DRIVEN and library == "pymoo":
        return _in_pymoo(what, name.partition(":")[2])
    # DIRECT's first point is the middle of the box, which is x0.
    starts = (True, False) if what == DRIVEN and name != "pymoo:DIRECT" else (True,)
    return next(filter(None, (_in_minimize(what, name, start_at_x0) for start_at_x0 in starts)), "")


def _in_nevergrad(what: str, name: str) -> str:
    import nevergrad as ng

    seen = Seen(_problem(what))
    parametrization = _problem(HERE).to_nevergrad().parametrization.copy()
    parametrization.random_state.seed(SEED)
    if what == HERE:
        f: Callable[[Any], float] = seen.problem.to_nevergrad()
    else:
        f = ng.functions.ExperimentFunction(lambda x: float(seen.problem.evaluate(x[None])[0]), parametrization.copy())

    def noted(x: Any) -> float:
        seen.note(x)
        return f(x)

    x = ng.optimizers.registry[name](parametrization, budget=BUDGET).minimize(noted).value
    return seen.fault(x) or seen.count_fault()


def _in_pymoo(what: str, name: str) -> str:
    """pymoo looks at its budget between generations, and DIRECT and its kin are told to end there too."""
    from pymoo.core.problem import Problem
    from pymoo.optimize import minimize as pymoo_minimize

    from llm_problem_adapters.pymoo_optimizer import ALGORITHMS

    problem = _problem(what)
    lower, upper = problem.bounds

    class Sphere(Problem):
        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = problem.evaluate(X)

    face = problem.to_pymoo() if what == HERE else Sphere(n_var=problem.dimension, n_obj=1, xl=lower, xu=upper)
    algorithm = getattr(importlib.import_module(ALGORITHMS[name]), name)()
    found = pymoo_minimize(face, algorithm, ("n_eval", BUDGET), seed=SEED)
    if found.algorithm.evaluator.n_eval < BUDGET:
        return f"ValueError: {found.algorithm.evaluator.n_eval} evaluations instead of {BUDGET}"
    return Seen(problem).fault(np.atleast_2d(found.X)[0])


def _in_minimize(what: str, name: str, start_at_x0: bool) -> str:
    seen = Seen(_problem(HERE if what == DRIVEN else what))
    found = minimize(seen, name, BUDGET, seed=SEED, start_at_x0=start_at_x0)
    if np.array_equal(seen.points[0], seen.problem.x0) != start_at_x0:
        return f"ValueError: with start_at_x0={start_at_x0} the first point was {seen.points[0]}"
    if not np.isfinite(found.loss):
        return f"ValueError: the loss {found.loss}"
    # An optimizer may come to its own end; what the budget is for is that it is never overshot.
    return seen.fault(found.x) or (seen.count_fault() if found.stop_reason == "budget" else "")


class Seen:
    """A problem that notes the points it is asked for."""

    def __init__(self, problem: Any) -> None:
        self.problem, self.points = problem, list[np.ndarray]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        self.points.extend(np.array(X))
        return self.problem.evaluate(X)

    def note(self, x: Any) -> None:
        self.points.append(np.array(x))

    def fault(self, x: Any) -> str:
        """What is wrong with the point (d,) that is recommended."""
        lower, upper = self.problem.bounds
        inside = np.isfinite(x).all() and (x >= lower).all() and (x <= upper).all()
        return "" if inside else "ValueError: the point recommended is outside the bounds"

    def count_fault(self) -> str:
        return "" if len(self.points) == BUDGET else f"ValueError: {len(self.points)} evaluations instead of {BUDGET}"


class _Sphere:
    """‖x − 0.5‖² where the problem is: same dimension, start, bounds and sigma."""

    def __init__(self, problem: lp.Problem) -> None:
        self.dimension, self.x0, self.bounds, self.sigma = problem.dimension, problem.x0, problem.bounds, problem.sigma

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        return np.square(X - 0.5).sum(axis=1)


@functools.cache
def _problem(what: str) -> Any:
    return lp.make(PROBLEM) if what == HERE else _Sphere(_problem(HERE))


def difference(found: dict[str, dict[str, str]]) -> list[str]:
    """Names that work on the sphere, and on the problem do not: in their own library, or in `minimize`."""
    sphere = found.get(SPHERE, {})
    failed = {name for what in (HERE, DRIVEN) for name, error in found.get(what, {}).items() if error}
    return sorted(name for name in sphere if not sphere[name] and name in failed)


def not_installed(patterns: Sequence[str]) -> dict[str, list[str]]:
    """Package → names in Nevergrad's registry that need it, where it is not installed."""
    import nevergrad as ng

    from llm_problem_adapters.nevergrad_optimizer import missing_package

    missing: dict[str, list[str]] = defaultdict(list)
    for name in sorted(ng.optimizers.registry):
        package = missing_package(name)
        if package and any(fnmatch.fnmatchcase(f"nevergrad:{name}", pattern) for pattern in patterns):
            missing[package].append(name)
    return missing


def report(found: dict[str, dict[str, str]], missing: Mapping[str, Sequence[str]] | None = None) -> str:
    """Counts, what failed and why, and the difference."""
    lines = [
        f"{TITLES[what]}: {sum(not e for e in errors.values())} of {len(errors)} work" for what, errors in found.items()
    ]
    for what, errors in found.items():
        kinds: dict[str, list[str]] = defaultdict(list)
        for name, error in sorted(errors.items()):
            if error:
                kinds[_kind(error)].append(name)
        for kind, names in sorted(kinds.items(), key=lambda each: -len(each[1])):
            lines.append(f"  {TITLES[what]}: {kind[:150]} ({len(names)}): {', '.join(names)}")
    if missing:
        lines.append(f"not run, because a package is not installed: {sum(map(len, missing.values()))}")
        lines += [f"  {package}: {', '.join(names)}" for package, names in sorted(missing.items())]
    lines.append(f"work on a sphere and not on {PROBLEM}: {', '.join(difference(found)) or 'none'}")
    return "\n".join(lines)


def _kind(error: str) -> str:
    """An error without what belongs to one optimizer only: the name of a broken promise, not what was found instead."""
    text = " ".join(error.split())
    return text.partition(": [")[0] if text.startswith("BrokenPromiseError") else text


if __name__ == "__main__":
    sys.exit(main())
