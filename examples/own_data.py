"""Your own examples, from a CSV file by column name, on a model of your choice.

python examples/own_data.py                            # a small file made on the spot, a bundled model
python examples/own_data.py reviews.csv smollm2-135m   # columns text and label (negative, positive)
"""

import csv
import sys
import tempfile
from pathlib import Path

import llm_problem as lp
from llm_problem_adapters import minimize


def small_file(folder: str) -> Path:
    """Forty short reviews, so that this example runs without a file."""
    good = ["clear", "careful", "quick", "kind", "useful"]
    bad = ["vague", "careless", "slow", "rude", "useless"]
    path = Path(folder) / "reviews.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for subject in ("answer", "teacher", "manual", "repair"):
            writer.writerows([f"A {word} {subject}.", "positive"] for word in good)
            writer.writerows([f"A {word} {subject}.", "negative"] for word in bad)
    return path


with tempfile.TemporaryDirectory() as folder:
    path = sys.argv[1] if len(sys.argv) > 1 else small_file(folder)
    model = sys.argv[2] if len(sys.argv) > 2 else "tiny-gpt2"
    task = lp.tasks.Classification.from_csv(
        path,
        text="text",
        label="label",
        prompt="Review: {text}\nSentiment:",
        labels={"negative": " negative", "positive": " positive"},
        search_size=16,
    )
    problem = lp.Problem(model, task, lp.subspaces.LoRAXS(rank=4, layers=1))
    result = minimize(problem, "cma", budget=200, seed=1)

    print(result)
    for name, x in (("pretrained", problem.x0), ("found", result.x)):
        metrics = problem.metrics(x, "test")
        print(f"{name:>10}: held-out loss {metrics['loss']:.3f}, accuracy {metrics['accuracy']:.2f}")
