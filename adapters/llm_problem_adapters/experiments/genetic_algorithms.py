"""`python -m llm_problem_adapters.experiments.genetic_algorithms`: what the improved genetic algorithm gains.

The document's genetic algorithm, ours at its defaults and the improved form, on problems that nothing was tuned on
(`experiments.defaults` names those it was). A run's loss is that of the point it recommends. The document's own is
compared with each of the others by Mann and Whitney's test over the seeds, corrected by Holm for all the problems.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

import numpy as np

import llm_problem as lp
from llm_problem.study.statistics import RankTest, holm, rank_test
from llm_problem_adapters.experiments.markdown import markdown
from llm_problem_adapters.experiments.records import Record, Records
from llm_problem_adapters.minimize import minimize

DOCUMENT = "genetic-algorithm-document"
OTHERS = ("genetic-algorithm", "genetic-algorithm-improved")
PROBLEMS = (
    "tiny-gpt2-prose-lora-xs-d32-v1",
    "tiny-gpt2-prose-lora-xs-d512-v1",
    "tiny-gpt2-prose-random-d64-v1",
    "tiny-gpt2-sentiment-lora-xs-d128-v1",
    "tiny-bert-prose-lora-xs-d32-v1",
    "smollm2-135m-sentiment-lora-xs-d32-v1",
    "smollm2-135m-sentiment-lora-xs-d128-v1",
    "smollm2-135m-sentiment-lora-xs-d64-v1",
)
KEY = ("problem", "fingerprint", "optimizer", "budget", "seed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not in the file yet and print the table; 0 where the improved form is nowhere clearly worse."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_problem_adapters.experiments.genetic_algorithms",
        description="The document's genetic algorithm against ours, seed by seed.",
    )
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--budget", type=int, default=1000)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), metavar="ID")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file of the runs; goes on where it was")
    options = parser.parse_args(arguments)
    records = Records(options.out, KEY)
    runs = [
        run(records, id, optimizer, options.budget, seed)
        for id in options.problems
        for optimizer in (DOCUMENT, *OTHERS)
        for seed in range(options.seeds)
    ]
    text, worse = table(runs, options.problems)
    print(text)
    return 1 if worse else 0


def run(records: Records, id: str, optimizer: str, budget: int, seed: int) -> Record:
    """One run: f(0) and the recommended point's loss."""

    def make() -> Record:
        problem = _problem(id)
        result = minimize(problem, optimizer, budget=budget, seed=seed)
        return {"start": problem(problem.x0), "loss": result.loss}

    values = (id, lp.get_spec(id).fingerprint(id)[:16], optimizer, budget, seed)
    return records.run(dict(zip(KEY, values, strict=True)), make)


@functools.lru_cache(maxsize=1)
def _problem(id: str) -> lp.Problem:
    return lp.make(id)


def table(runs: Sequence[Record], problems: Sequence[str]) -> tuple[str, bool]:
    """A row a problem, as Markdown; and whether the improved form is worse than the document's on one of them."""
    losses = {
        (id, optimizer): np.array([r["loss"] for r in runs if (r["problem"], r["optimizer"]) == (id, optimizer)])
        for id in problems
        for optimizer in (DOCUMENT, *OTHERS)
    }
    start = {r["problem"]: r["start"] for r in runs}
    tests = {name: [rank_test(losses[id, name], losses[id, DOCUMENT]) for id in problems] for name in OTHERS}
    corrected = {name: holm([test.p for test in tests[name]]) for name in OTHERS}
    header = ["problem", "f(0)", "document", *(cell for name in OTHERS for cell in (_short(name), "A", "p"))]
    rows = []
    for row, id in enumerate(problems):
        cells = [id, f"{start[id]:.3f}", _spread(losses[id, DOCUMENT])]
        for name in OTHERS:
            cells += [_spread(losses[id, name]), f"{tests[name][row].effect:.2f}", f"{corrected[name][row]:.2g}"]
        rows.append(cells)
    text = markdown(header, rows, [column > 0 for column in range(len(header))])
    return text, any(map(_clearly_worse, tests[OTHERS[-1]], corrected[OTHERS[-1]]))


def _clearly_worse(test: RankTest, p: float) -> bool:
    return p < 0.05 and test.effect < 0.5


def _short(name: str) -> str:
    return {"genetic-algorithm": "ours", "genetic-algorithm-improved": "improved"}[name]


def _spread(losses: np.ndarray) -> str:
    """The median and the quartiles."""
    low, middle, high = np.percentile(losses, [25, 50, 75])
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    sys.exit(main())
