"""How far search alone takes a small language model on SST-2, from a good prompt on; and what gradients would add.

    python examples/sst2_search.py --data FOLDER    # train.csv, dev.csv, test.csv: columns text, label
    python examples/sst2_search.py                  # a bundled model and the embedded sentences, seconds

The prompt shows two reviews with their labels. CMA-ES searches LoRA-XS in the last layer three times: by the loss, by
the share of wrong answers with a little of the loss to break ties, and, as the reference that cheats, Adam follows the
gradient in the same subspace. Which point of a search is its answer is chosen on dev, and so is the search that counts.
The test split is read once for every answer. Written to sst2-search.png.
"""

import argparse
from pathlib import Path

import numpy as np

import llm_problem as lp
from llm_problem.statistics import Scored, compare
from llm_problem.study.gains import best_so_far, gains_png
from llm_problem_adapters import minimize

ZERO_SHOT = "Review: {text}\nSentiment:"
TWO_SHOT = (
    "Review: it never gets off the ground .\nSentiment: negative\n\n"
    "Review: a warm , funny and moving film .\nSentiment: positive\n\n" + ZERO_SHOT
)
TIES = 0.1  # weight of the loss beside the error rate: 0.01 nats count as one sentence in a thousand
SEARCHES = {  # name → optimizer, objective
    "CMA-ES, loss": ("cma", {"objective": "loss"}),
    "CMA-ES, errors": ("cma", {"objective": "error", "regularisation": {"loss": TIES}}),
    "Adam (gradients)": ("adam", {"objective": "loss"}),
}


def task(data: Path | None, prompt: str, search_size: int) -> lp.tasks.Classification:
    options = {"text": "text", "label": "label", "prompt": prompt, "search_size": search_size}
    options["labels"] = {"negative": " negative", "positive": " positive"}
    if data is None:
        return lp.tasks.Classification("embedded:sentiment", split="split", **options)
    return lp.tasks.Classification.from_csv(
        data / "train.csv", dev=data / "dev.csv", test=data / "test.csv", dev_size=400, **options
    )


def scored(problem: lp.Problem, x: np.ndarray) -> Scored:
    """What a point scores on each test sentence."""
    batch = problem.batch("test")
    return problem.spec.task.scored(problem.evaluator.log_probs(x[None], batch)[0], batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.csv, dev.csv and test.csv")
    parser.add_argument("--model", help="default: smollm2-135m with --data, else tiny-gpt2")
    parser.add_argument("--budget", type=int, default=3000, help="evaluations of each search")
    parser.add_argument("--seconds", type=float, default=1200, help="of the searches by CMA-ES, together")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = given.model or ("tiny-gpt2" if given.data is None else "smollm2-135m")
    small = given.data is None
    subspace = lp.subspaces.LoRAXS(rank=4 if small else 8, layers=1)

    found, curves, dev = {}, {}, {}
    for name, (optimizer, objective) in SEARCHES.items():
        what = task(given.data, ZERO_SHOT if small else TWO_SHOT, search_size=64 if small else 512)
        problem = lp.Problem(model, what, subspace, **objective)
        budget = given.budget if optimizer == "cma" else min(given.budget, 300)
        result = minimize(
            problem,
            optimizer,
            budget,
            seed=given.seed,
            generalisation={"choose": "dev", "every": max(1, budget // 30), "average": "recommended"},
            limits={"seconds": given.seconds / 2},
        )
        found[name], curves[name] = result.x, best_so_far(result.losses)
        dev[name] = problem.metrics(result.x, "dev")["accuracy"]
        before = problem.metrics(problem.x0, "dev")["accuracy"]
        print(f"{name}: d = {problem.dimension}, {result.evaluations} evaluations, {result.seconds:.0f} s, "
              f"dev accuracy {before:.4f} -> {dev[name]:.4f}", flush=True)  # fmt: skip
        if name == "CMA-ES, loss":
            first = problem
    chosen = max((name for name in found if name != "Adam (gradients)"), key=dev.get)
    print(f"chosen on dev: {chosen}")

    scores = {name: scored(first, x) for name, x in {"prompt": first.x0, **found}.items()}
    changes = {name: compare(scores["prompt"], scores[name]) for name in found}
    for name, change in changes.items():
        print(f"test, {change['accuracy'].units} sentences, {name}: accuracy {change['accuracy']}")
        print(f"  loss {change['loss']}")
    if not small:
        bare = lp.Problem(model, task(given.data, ZERO_SHOT, search_size=16), subspace)
        print(f"from the prompt without examples: {compare(scored(bare, bare.x0), scores[chosen])['accuracy']}")
    picture = gains_png(
        {name: curve for name, curve in curves.items() if "errors" not in name},
        changes,
        baseline=first(first.x0),
        title=f"SST-2: {first.spec.model}, {first.dimension} numbers searched",
        xlabel="evaluations (a gradient counts as three)",
        ylabel="best search loss (nats per sentence)",
        metrics={"accuracy": "accuracy (share)", "loss": "loss (nats per sentence)"},
        split=f"{changes[chosen]['accuracy'].units} test sentences",
    )
    Path("sst2-search.png").write_bytes(picture)


if __name__ == "__main__":
    main()
