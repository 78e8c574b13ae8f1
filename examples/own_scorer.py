"""Text by a scorer of one's own: explanations in plainer words, searched without gradients.

    python examples/own_scorer.py                        # a bundled model, seconds
    python examples/own_scorer.py --model smollm2-135m   # a real one
    python examples/own_scorer.py --model smollm2-135m --data topics.txt    # a topic a line

What is minimised is no loss that a gradient could follow: the years of school that a text asks of its reader by the
formula of Kincaid et al. (1975), which counts words, sentences and syllables. A formula alone is soon cheated, by
saying the same three words again and again or next to nothing, so that both cost years too; and the model may not drift
far from the pretrained one on neutral text, since it would then babble in short words. The point is chosen on dev
topics; the test topics are read once, with the 95% interval of the paired difference. Written to own-scorer.png.
"""

import argparse
import re
from pathlib import Path

import llm_problem as lp
from llm_problem.study.gains import best_so_far, gains_png
from llm_problem_adapters import minimize

TOPICS = """photosynthesis, inflation, gravity, a solar eclipse, electricity, the immune system, a black hole,
democracy, vaccination, the water cycle, an earthquake, evolution, a computer virus, magnetism, the stock market,
digestion, climate change, an interest rate, a vitamin, a volcano, the internet, a court of law, sound, recycling,
a neuron,
insurance, a satellite, a tide, bacteria, a tax, radio waves, a hurricane, blood pressure, an election, a battery,
friction, a constitution, an antibiotic, a telescope, trade, a glacier, an allergy, nuclear energy, a census, osmosis,
a mortgage, sleep, a fossil"""
PROMPT = "Explain {topic} in two sentences."
SPLITS = ("search", "test", "dev", "test", "search", "test")  # of the topics in turn
DRIFT = 0.3  # nats per token of neutral text
SHORTEST = 12  # words of an explanation


def school_years(prompts, outputs, references):
    """Years of school of the reader that each text is for; repetition and brevity cost up to ten years each."""
    return [grade(text) + 10 * repeated(text) + 10 * missing(text) for text in outputs]


def grade(text: str) -> float:
    """0.39 words/sentence + 11.8 syllables/word - 15.59 (Kincaid, Fishburne, Rogers & Chissom 1975), at least 0."""
    words = re.findall(r"[A-Za-z']+", text)
    sentences = max(1, len(re.findall(r"[.!?]+", text)))
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", re.sub(r"e$", "", word.lower())))) for word in words)
    return max(0.0, 0.39 * len(words) / sentences + 11.8 * syllables / max(1, len(words)) - 15.59)


def repeated(text: str) -> float:
    """Share of three words in a row that stood in the text before."""
    words = text.lower().split()
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(triples)) / max(1, len(triples)) if triples else 0.0


def missing(text: str) -> float:
    """Share of the shortest text that counts as an explanation which is not there."""
    return max(0.0, 1 - len(re.findall(r"[A-Za-z']+", text)) / SHORTEST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a text file with a topic a line")
    parser.add_argument("--model", default="tiny-gpt2")
    parser.add_argument("--budget", type=int, default=120, help="evaluations")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    real = given.model != "tiny-gpt2"
    topics = [line.strip() for line in given.data.read_text("utf-8").splitlines()] if given.data else TOPICS.split(",")
    rows = [{"topic": topic.strip(), "split": SPLITS[k % len(SPLITS)]} for k, topic in enumerate(topics) if topic]
    task = lp.tasks.Generation.from_records(
        rows, prompt=PROMPT, scorer=school_years, split="split", chat=real, max_new_tokens=40 if real else 12
    )
    subspace = lp.subspaces.LoRAXS(rank=4, layers=8 if real else 1, modules=("o_proj", "down_proj"))
    problem = lp.Problem(given.model, task, subspace, objective="score", constraints={"drift": DRIFT})
    options = {"choose": "dev", "every": max(1, given.budget // 10)}  # looking at dev writes texts too
    # Greedy text changes in jumps: a first step of a whole unit, where half a one would hardly change a word.
    result = minimize(problem, "cma", given.budget, seed=given.seed, generalisation=options, step=1.0)
    change = problem.compare(problem.x0, result.x)["score"]
    print(f"d = {problem.dimension}, {result.evaluations} evaluations, {result.seconds:.0f} s")
    print(f"search: {problem(problem.x0):.2f} -> {problem(result.x):.2f}, best {result.best_loss:.2f}")
    print(f"years of school on {change.units} topics not seen: {change}")
    before, after = (problem.outputs(x, "dev", size=3) for x in (problem.x0, result.x))
    for row, first, second in zip(
        (row for row in rows if row["split"] == "dev"), before.outputs, after.outputs, strict=False
    ):
        print(f"{row['topic']}\n  before: {first.strip()}\n  after: {second.strip()}")
    picture = gains_png(
        {"CMA-ES": best_so_far(result.losses)},
        {"CMA-ES": {"score": change}},
        baseline=problem(problem.x0),
        title=f"Plain words: {problem.spec.model}, {problem.dimension} numbers searched",
        ylabel="best search score (years of school)",
        metrics={"score": "score (years of school)"},
        split=f"{change.units} test topics",
    )
    Path("own-scorer.png").write_bytes(picture)


if __name__ == "__main__":
    main()
