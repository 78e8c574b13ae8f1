"""A language model moved towards a text without gradients: nats per token before and after.

    python examples/shakespeare.py --data FOLDER    # input.txt: the plays
    python examples/shakespeare.py                  # a bundled model and the embedded prose, seconds

The text is cut into three contiguous parts: the loss is searched on windows of the first, the point is chosen on the
second, and the third is read once, for that point. Written to shakespeare.png.
"""

import argparse
from pathlib import Path

import llm_problem as lp
from llm_problem.study.gains import best_so_far, gains_png
from llm_problem_adapters import minimize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with input.txt")
    parser.add_argument("--model", help="default: smollm2-135m with --data, else tiny-gpt2")
    parser.add_argument("--budget", type=int, help="evaluations; default: 1500 with --data, else 250")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = given.model or ("tiny-gpt2" if given.data is None else "smollm2-135m")
    text = "embedded:prose" if given.data is None else given.data / "input.txt"
    sizes = {"search_size": 24, "dev_size": 24, "test_size": 150} if given.data else {"search_size": 24}
    task = lp.tasks.LanguageModelling(text, window=64 if given.data else 32, **sizes)
    subspace = lp.subspaces.LoRAXS(rank=8, layers=1, modules=("o_proj", "down_proj"))
    problem = lp.Problem(model, task, subspace)
    budget = (250 if given.data is None else 1500) if given.budget is None else given.budget
    result = minimize(problem, "cma", budget, seed=given.seed, generalisation={"choose": "dev"})
    change = problem.compare(problem.x0, result.x)["loss"]
    print(f"d = {problem.dimension}, {result.evaluations} evaluations, {result.seconds:.0f} s")
    print(f"nats per token on {change.units} windows not seen: {change}")
    picture = gains_png(
        {"CMA-ES": best_so_far(result.losses)},
        {"CMA-ES": {"loss": change}},
        baseline=problem(problem.x0),
        title=f"Running text: {problem.spec.model}, {problem.dimension} numbers searched",
        ylabel="best search loss (nats per token)",
        metrics={"loss": "loss (nats per token)"},
        split=f"{change.units} test windows",
    )
    Path("shakespeare.png").write_bytes(picture)


if __name__ == "__main__":
    main()
