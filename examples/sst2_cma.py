"""CMA-ES at its defaults on SST-2, from CSV files: 32 sentences, 256 numbers, 1,000 evaluations, five seeds.

    python examples/sst2_cma.py FOLDER   # with train.csv, dev.csv, test.csv: columns text, label

SmolLM2-135M with the prompt "{text} It was" and the words terrible/great, LoRA-XS of rank 8 on the query and value
projections of the last two layers. 32 sentences are few: the search loss falls far more than the held-out loss.
"""

import statistics
import sys
from pathlib import Path

import llm_problem as lp
from llm_problem_adapters import minimize


def main(folder: Path, budget: int = 1000, seeds: int = 5) -> None:
    task = lp.tasks.Classification.from_csv(
        folder / "train.csv",
        dev=folder / "dev.csv",
        test=folder / "test.csv",
        text="text",
        label="label",
        prompt="{text} It was",
        labels={"negative": " terrible", "positive": " great"},
        search_size=32,
    )
    problem = lp.Problem("smollm2-135m", task, lp.subspaces.LoRAXS(rank=8, layers=2))
    before = problem.metrics(problem.x0, "test")
    print(f"d = {problem.dimension}; evaluator: {problem.card()['evaluator']}")
    print(f"pretrained: search loss {problem(problem.x0):.4f}, test accuracy {before['accuracy']:.4f}", flush=True)
    best, accuracies = [], []
    for seed in range(1, seeds + 1):
        result = minimize(problem, "cma", budget=budget, seed=seed)
        after = problem.metrics(result.x, "test")
        best.append(result.best_loss)
        accuracies.append(after["accuracy"])
        print(
            f"seed {seed}: best search loss {result.best_loss:.4f} (recommended {result.loss:.4f}), "
            f"test accuracy {after['accuracy']:.4f}, {result.evaluations} evaluations in {result.seconds:.0f} s",
            flush=True,
        )
    print(f"median: best search loss {statistics.median(best):.4f}, test accuracy {statistics.median(accuracies):.4f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
