"""Mix three LoRA adapters without gradients: three coefficients, searched by Nevergrad.

Each adapter is made here by a search of its own, on its own third of the search part of the embedded prose; the mix is
searched on windows from all of that part. Printed are the losses of the pretrained model, of each adapter alone, of all
three added up and of the mix that was found, on the windows that were searched and on a part that nobody has searched.
"""

import tempfile
from importlib import resources
from pathlib import Path

import nevergrad as ng
import numpy as np

import llm_problem as lp
from llm_problem_adapters import minimize

MODEL = "tiny-gpt2"
PROSE = (resources.files("llm_problem") / "data" / "prose.txt").read_text(encoding="utf-8")


def make_adapter(text: str, directory: Path, seed: int) -> None:
    """Search a LoRA-XS on one text and save it as PEFT does."""
    task = lp.tasks.LanguageModelling.from_string(text, window=32, search_size=16)
    problem = lp.Problem(MODEL, task, lp.subspaces.LoRAXS(rank=4, layers=2), seed=seed)
    result = minimize(problem, "cma", budget=600, seed=seed)
    problem.save_adapter(result.x, directory)
    print(f"{directory.name}: search loss {problem(problem.x0):.4f} → {result.loss:.4f}")


with tempfile.TemporaryDirectory() as folder:
    adapters = [Path(folder) / f"adapter-{k}" for k in range(3)]
    task = lp.tasks.LanguageModelling.from_string(PROSE, window=32, search_size=32)
    text = task.text("search")  # so that the held-out parts stay unseen
    third = len(text) // 3
    for k, directory in enumerate(adapters):
        make_adapter(text[k * third : (k + 1) * third], directory, seed=k)

    problem = lp.Problem(MODEL, task, lp.subspaces.AdapterMix(adapters))
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(1)
    found = ng.optimizers.OnePlusOne(f.parametrization, budget=100).minimize(f).value

    print(f"coefficients found: {np.round(found, 2)}")
    points = {"pretrained": problem.x0, **{f"adapter {k} alone": np.eye(3)[k] for k in range(3)}}
    for name, x in {**points, "all added up": np.ones(3), "mix found": found}.items():
        searched, held_out = problem(x), problem.metrics(x, "test")["loss"]
        print(f"{name:>16}: {searched:.4f} nats per token, held out {held_out:.4f}")
