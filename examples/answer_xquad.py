"""Answers to questions about a passage, before and after a search without gradients.

    python examples/answer_xquad.py --data FOLDER    # en.jsonl of XQuAD: columns context, question, answers
    python examples/answer_xquad.py                  # a bundled model and a few questions, seconds

The loss of the answer (nats per token) is searched; which point of the search is the answer is chosen on dev, and the
test split is read once, for that point: loss, exact match and F1 by the rules of SQuAD v1.1, with the 95% interval of
the paired difference from the pretrained model. Questions about one passage are in one split, and drawn together for
the interval. Written to answer-xquad.png.
"""

import argparse
from pathlib import Path

import llm_problem as lp
from llm_problem.study.gains import best_so_far, gains_png
from llm_problem_adapters import minimize

PASSAGES = {  # passage → question, answer
    "The bridge was built in 1894 by Anna Holm.": [("When was it built?", "1894"), ("Who built it?", "Anna Holm")],
    "The red barn stands in Oster.": [("Where is the barn?", "Oster"), ("What colour is it?", "red")],
    "Karl sold two goats for ten crowns.": [("Who sold the goats?", "Karl"), ("How many did he sell?", "two")],
    "Mia found a key under the mat.": [("Who found the key?", "Mia"), ("Where was it?", "under the mat")],
    "The train to Lund leaves at nine.": [("When does it leave?", "at nine"), ("Where does it go?", "Lund")],
}
PROMPT = "{context}\nQuestion: {question}\nAnswer:"
# What an answer looks like: F1 on 100 dev questions was 0.23 with it, 0.20 with its first question alone, 0.07 without.
WORKED = (
    "Passage: The bridge was built in 1894 by Anna Holm, an engineer from Oster. It carries two railway tracks.\n"
    "Question: Who built the bridge?\nAnswer: Anna Holm\n"
    "Question: How many tracks does it carry?\nAnswer: two\n"
    "Question: When was it built?\nAnswer: 1894\n\n"
    "Passage: "
)


def task(data: Path | None, **sizes: int) -> lp.tasks.QuestionAnswering:
    options = {"context": "context", "question": "question", "answers": "answers"}
    if data is not None:
        options["prompt"] = WORKED + PROMPT
        return lp.tasks.QuestionAnswering.from_jsonl(data / "en.jsonl", max_new_tokens=24, **options, **sizes)
    rows = [
        {"context": passage, "question": question, "answers": answer}
        for passage, asked in PASSAGES.items()
        for question, answer in asked
    ]
    search, dev, test = rows[:4], rows[4:6], rows[6:]  # passages of their own
    return lp.tasks.QuestionAnswering.from_records(
        search, dev=dev, test=test, prompt=PROMPT, max_new_tokens=6, **options
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with en.jsonl")
    parser.add_argument("--model", help="default: smollm2-135m with --data, else tiny-gpt2")
    parser.add_argument("--budget", type=int, default=1000, help="evaluations")
    parser.add_argument("--test-size", type=int, default=120, help="questions that are answered")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = given.model or ("tiny-gpt2" if given.data is None else "smollm2-135m")
    what = task(given.data, search_size=64, dev_size=64, test_size=given.test_size)
    subspace = lp.subspaces.LoRAXS(rank=6, layers=1, modules=("q_proj", "v_proj", "o_proj", "down_proj"))
    problem = lp.Problem(model, what, subspace)
    result = minimize(problem, "cma", given.budget, seed=given.seed, generalisation={"choose": "dev"})
    changes = problem.compare(problem.x0, result.x)
    print(f"d = {problem.dimension}, {result.evaluations} evaluations, {result.seconds:.0f} s")
    for metric in ("loss", "f1", "exact_match"):
        print(f"{metric}: {changes[metric]}", flush=True)
    before, after = (problem.outputs(x, "dev", size=3) for x in (problem.x0, result.x))
    for prompt, first, second, right in zip(
        before.prompts, before.outputs, after.outputs, before.references, strict=True
    ):
        print(f"{prompt.splitlines()[-2]}\n  before: {first}\n  after: {second}\n  right: {right[0]}")
    picture = gains_png(
        {"CMA-ES": best_so_far(result.losses)},
        {"CMA-ES": changes},
        baseline=problem(problem.x0),
        title=f"Questions about passages: {problem.spec.model}, {problem.dimension} numbers searched",
        ylabel="best search loss (nats per token)",
        metrics={"loss": "loss (nats per token)", "f1": "F1 (0 to 1)", "exact_match": "exact match (share)"},
        split="test questions",
    )
    Path("answer-xquad.png").write_bytes(picture)


if __name__ == "__main__":
    main()
