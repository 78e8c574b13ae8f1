"""A small language model's translations, before and after a search without gradients.

    python examples/translate_multi30k.py --data FOLDER    # dev.csv and test.csv: columns en, de, fr (Multi30k)
    python examples/translate_multi30k.py                  # a bundled model and a few captions, seconds

The loss of the reference (nats per token) is searched on captions of dev.csv; which point of the search is the answer
is chosen on others of them. test.csv is read once, for that point: loss and chrF, with the 95% interval of the paired
difference from the pretrained model. Written to translate-de.png and translate-fr.png.
"""

import argparse
from pathlib import Path

import llm_problem as lp
from llm_problem.study.gains import best_so_far, gains_png
from llm_problem_adapters import minimize

LANGUAGES = {"de": "German", "fr": "French"}
SHOTS = {  # two captions before each, so that the model sees what is wanted
    "de": ("Ein Hund rennt durch den Schnee.", "Zwei Frauen sitzen auf einer Bank."),
    "fr": ("Un chien court dans la neige.", "Deux femmes sont assises sur un banc."),
}
ENGLISH = ("A dog runs through the snow.", "Two women are sitting on a bench.")
CAPTIONS = [
    {"en": "A man sleeps.", "de": "Ein Mann schläft.", "fr": "Un homme dort."},
    {"en": "A child reads a book.", "de": "Ein Kind liest ein Buch.", "fr": "Un enfant lit un livre."},
    {"en": "Two men play football.", "de": "Zwei Männer spielen Fußball.", "fr": "Deux hommes jouent au football."},
    {"en": "A woman drinks tea.", "de": "Eine Frau trinkt Tee.", "fr": "Une femme boit du thé."},
    {"en": "The girl is laughing.", "de": "Das Mädchen lacht.", "fr": "La fille rit."},
    {
        "en": "A cat sits on a chair.",
        "de": "Eine Katze sitzt auf einem Stuhl.",
        "fr": "Un chat est assis sur une chaise.",
    },
]


def task(language: str, data: Path | None, **sizes: int) -> lp.tasks.Translation:
    shots = list(zip(ENGLISH, SHOTS[language], strict=True)) if data else []
    prompt = "".join(f"English: {en}\n{LANGUAGES[language]}: {other}\n\n" for en, other in shots)
    options = {"source": "en", "target": language, "prompt": prompt + f"English: {{source}}\n{LANGUAGES[language]}:"}
    if data is None:
        rows = [{**row, "split": ("search", "dev", "test")[k % 3]} for k, row in enumerate(CAPTIONS)]
        return lp.tasks.Translation.from_records(rows, split="split", max_new_tokens=8, **options)
    return lp.tasks.Translation.from_csv(
        data / "dev.csv", test=data / "test.csv", max_new_tokens=40, **options, **sizes
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with dev.csv and test.csv")
    parser.add_argument("--model", help="default: smollm2-135m with --data, else tiny-gpt2")
    parser.add_argument("--budget", type=int, help="evaluations for each language; default: 1000 with --data, else 200")
    parser.add_argument("--test-size", type=int, default=150, help="captions of test.csv that are translated")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = given.model or ("tiny-gpt2" if given.data is None else "smollm2-135m")
    budget = (200 if given.data is None else 1000) if given.budget is None else given.budget
    for language, name in LANGUAGES.items():
        what = task(language, given.data, search_size=48, dev_size=48, test_size=given.test_size)
        subspace = lp.subspaces.LoRAXS(rank=8, layers=1, modules=("o_proj", "down_proj"))
        problem = lp.Problem(model, what, subspace)
        result = minimize(problem, "cma", budget, seed=given.seed, generalisation={"choose": "dev"})
        changes = problem.compare(problem.x0, result.x)
        print(f"English to {name}, d = {problem.dimension}, {result.evaluations} evaluations, {result.seconds:.0f} s")
        for metric in ("loss", "chrf", "bleu"):
            print(f"  {metric}: {changes[metric]}", flush=True)
        texts = [problem.outputs(x, "dev", size=1) for x in (problem.x0, result.x)]
        print(f"  {texts[0].prompts[0].splitlines()[-2]}")
        print(f"    before: {texts[0].outputs[0].strip()}\n    after: {texts[1].outputs[0].strip()}")
        picture = gains_png(
            {"CMA-ES": best_so_far(result.losses)},
            {"CMA-ES": changes},
            baseline=problem(problem.x0),
            title=f"English to {name}: {problem.spec.model}, {problem.dimension} numbers searched",
            ylabel="best search loss (nats per token)",
            metrics={"loss": "loss (nats per token)", "chrf": "chrF (0 to 100)"},
            split=f"{changes['loss'].units} test captions",
        )
        Path(f"translate-{language}.png").write_bytes(picture)


if __name__ == "__main__":
    main()
