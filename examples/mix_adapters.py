"""Mix four LoRA adapters without gradients: four coefficients, searched by Nevergrad.

The adapters have different ranks and modules. Each is made here by a search of its own: three on a third each of the
search part of the embedded prose, one on the embedded reviews, which are another kind of text. The mix is searched on
windows from all of the search part. Every point is then compared with the pretrained model on prose that no search has
seen: the gain in nats per token with the 95% interval of the windows' paired differences, and in words what that allows
to say. The average of the adapters, which needs no search, is among the points: where it does as well, that is said
too. It takes a minute or two.
"""

import csv
import tempfile
from importlib import resources
from pathlib import Path

import nevergrad as ng
import numpy as np

import llm_problem as lp
from llm_problem.subspaces import AdapterMix, LoRAXS
from llm_problem_adapters import minimize

MODEL = "tiny-gpt2"
DATA = resources.files("llm_problem") / "data"
PROSE = (DATA / "prose.txt").read_text(encoding="utf-8")
REVIEWS = "\n".join(row["text"] for row in csv.DictReader((DATA / "sentiment.csv").read_text("utf-8").splitlines()))
SUBSPACES = [
    LoRAXS(4, layers=2),
    LoRAXS(3, layers=2, modules=("q_proj", "v_proj", "o_proj", "down_proj")),
    LoRAXS(6, layers=1, modules=("o_proj", "down_proj")),
    LoRAXS(5, layers=2),
]


def make_adapter(text: str, subspace: lp.subspaces.Subspace, directory: Path, seed: int) -> None:
    """Search a subspace on one text and save what is found as PEFT does."""
    task = lp.tasks.LanguageModelling.from_string(text, window=32, search_size=24)
    problem = lp.Problem(MODEL, task, subspace, seed=seed)
    result = minimize(problem, "cma", budget=250, seed=seed)
    problem.save_adapter(result.x, directory)
    print(f"{directory.name}: loss on its own windows {problem(problem.x0):.4f} → {result.loss:.4f}")


def gain(problem: lp.Problem, before: np.ndarray, after: np.ndarray) -> str:
    """By how much the loss falls on the test split, with its interval, and in words what that allows to say."""
    change = problem.compare(before, after)["loss"]
    return f"{-change.value:+.4f} in [{-change.high:+.4f}, {-change.low:+.4f}], {change.verdict}"


with tempfile.TemporaryDirectory() as folder:
    task = lp.tasks.LanguageModelling.from_string(PROSE, window=32, search_size=48)
    text = task.text("search")  # so that the held-out parts stay unseen
    third = len(text) // 3
    adapters = [Path(folder) / name for name in ("prose-1", "prose-2", "prose-3", "reviews")]
    texts = [*(text[k * third : (k + 1) * third] for k in range(3)), REVIEWS]
    for k, (words, subspace, directory) in enumerate(zip(texts, SUBSPACES, adapters, strict=True)):
        make_adapter(words, subspace, directory, seed=k)

    problem = lp.Problem(MODEL, task, AdapterMix(adapters))
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(1)
    mix = ng.optimizers.OnePlusOne(f.parametrization, budget=100).minimize(f).value
    problem.save_adapter(mix, Path(folder) / "mix")  # one adapter again, which PEFT loads

    print(f"coefficients found: {np.round(mix, 2)}")
    units = {adapter.name: unit for adapter, unit in zip(adapters, np.eye(4), strict=True)}
    points = {"pretrained": problem.x0, **units, "sum": np.ones(4), "average": np.ones(4) / 4, "mix found": mix}
    for name, x in points.items():
        compared = "" if name == "pretrained" else f" (gain {gain(problem, problem.x0, x)})"
        held_out = problem.metrics(x, "test")["loss"]
        print(f"{name:>12}: {problem(x):.4f} nats per token, held out {held_out:.4f}{compared}")
    print(f"mix found against the average, held out: {gain(problem, points['average'], mix)}")
