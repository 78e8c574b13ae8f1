"""How far search alone takes a small language model on SST-2, from a good prompt on; and what gradients would add.

    python examples/sst2_search.py --data FOLDER    # train.csv, dev.csv, test.csv: columns text, label
    python examples/sst2_search.py                  # a bundled model and the embedded sentences, seconds

The prompt shows two reviews with their labels. What is searched is the gain of the norm before the output embeddings,
one number for each feature: everything below it is computed once, so that a candidate costs milliseconds for thousands
of sentences, and many sentences are what a search generalises by. A natural evolution strategy searches twice, by the
loss and by the share of wrong answers with a little of the loss to break ties; Adam follows the gradient in the same
subspace, as the reference that cheats. Which point of a search is its answer, and which search is the one that counts,
is chosen on dev; the test split is read once for each answer. Written to sst2-search.png.
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
SEARCH = "natural-evolution-strategy", {"step": 0.5}
ADAM = "adam", {"learning_rate": 0.3}


def task(data: Path | None, prompt: str, search_size: int) -> lp.tasks.Classification:
    options = {"text": "text", "label": "label", "prompt": prompt, "search_size": search_size}
    options["labels"] = {"negative": " negative", "positive": " positive"}
    if data is None:
        return lp.tasks.Classification("embedded:sentiment", split="split", **options)
    return lp.tasks.Classification.from_csv(data / "train.csv", dev=data / "dev.csv", test=data / "test.csv", **options)


def scored(problem: lp.Problem, x: np.ndarray) -> Scored:
    """What a point scores on each test sentence."""
    batch = problem.batch("test")
    return problem.spec.task.scored(problem.evaluator.log_probs(x[None], batch)[0], batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with train.csv, dev.csv and test.csv")
    parser.add_argument("--model", help="default: smollm2-135m with --data, else tiny-gpt2")
    parser.add_argument("--sentences", type=int, default=2048, help="of the search split")
    parser.add_argument("--budget", type=int, default=8000, help="evaluations of each search")
    parser.add_argument("--seconds", type=float, default=1200, help="of the two searches together")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    small = given.data is None
    model = given.model or ("tiny-gpt2" if small else "smollm2-135m")
    subspace = lp.subspaces.NormsAndBiases(norms=False, biases=False, final_norm=True)

    what = task(given.data, ZERO_SHOT if small else TWO_SHOT, search_size=64 if small else given.sentences)
    by_loss = lp.Problem(model, what, subspace)
    by_errors = by_loss.minimising("error", regularisation={"loss": TIES})
    searches = {  # what is searched, by which optimizer, with how many evaluations
        "search, loss": (by_loss, *SEARCH, given.budget),
        "search, errors": (by_errors, *SEARCH, given.budget),
        "Adam (gradients)": (by_loss, *ADAM, min(given.budget, 240)),
    }
    found, curves, dev = {}, {}, {}
    for name, (problem, optimizer, options, budget) in searches.items():
        choosing = {"choose": "dev", "every": max(1, budget // 40), "average": "recommended"}
        limits = {"seconds": given.seconds / 2}
        result = minimize(
            problem, optimizer, budget, seed=given.seed, generalisation=choosing, limits=limits, **options
        )
        found[name], dev[name] = result.x, problem.metrics(result.x, "dev")["accuracy"]
        if problem is by_loss:
            curves[name] = best_so_far(result.losses)
        at_start = problem.metrics(problem.x0, "dev")["accuracy"]
        print(
            f"{name}: d = {problem.dimension}, {result.evaluations} evaluations, {result.seconds:.0f} s, ended by "
            f"{result.stop_reason}, dev accuracy {at_start:.4f} -> {dev[name]:.4f}, "
            f"search loss {by_loss(by_loss.x0):.4f} -> {by_loss(result.x):.4f}",
            flush=True,
        )
    chosen = max((name for name in found if "gradients" not in name), key=lambda name: dev[name])
    print(f"chosen on dev: {chosen}")

    scores = {name: scored(by_loss, x) for name, x in {"prompt": by_loss.x0, **found}.items()}
    changes = {name: compare(scores["prompt"], scores[name]) for name in found}
    for name, change in changes.items():
        print(f"test, {change['accuracy'].units} sentences, {name}: accuracy {change['accuracy']}")
        print(f"  loss {change['loss']}", flush=True)
    picture = gains_png(
        curves,
        changes,
        baseline=by_loss(by_loss.x0),
        title=f"SST-2: {by_loss.spec.model}, {by_loss.dimension} numbers searched",
        xlabel="evaluations (a gradient counts as three)",
        ylabel="best search loss (nats per sentence)",
        metrics={"accuracy": "accuracy (share)", "loss": "loss (nats per sentence)"},
        split=f"{changes[chosen]['accuracy'].units} test sentences",
    )
    Path("sst2-search.png").write_bytes(picture)
    if not small:  # the same test sentences after the prompt without examples
        bare = lp.Problem(model, task(given.data, ZERO_SHOT, search_size=16), subspace)
        print(
            f"from the prompt without examples: accuracy {compare(scored(bare, bare.x0), scores[chosen])['accuracy']}"
        )


if __name__ == "__main__":
    main()
