"""What a lower loss costs: the front between the loss on a task and what is lost elsewhere.

    python examples/front.py                           # tiny-gpt2, seconds
    python examples/front.py smollm2-135m              # a real model, about a minute; fetches it at the first run
    python examples/front.py smollm2-135m forgetting   # against the loss on another task

Drift is the KL divergence of the moved model's next-token predictions from the pretrained model's on text that the task
is not about, in nats per token; forgetting is by how much its loss on such text is higher than the pretrained model's.
pymoo's NSGA-II and Nevergrad's DE search for both objectives at once; the picture is written to front.png.
"""

import sys
from pathlib import Path

import nevergrad as ng
import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.optimize import minimize

import llm_problem as lp
from llm_problem.study.plots import front_png, non_dominated

COSTS = {
    "drift": "drift from the pretrained model (nats per token)",
    "forgetting": "forgetting: loss on prose, less the pretrained model's (nats per token)",
}
PROBLEMS = {  # model → problem, evaluations of each optimizer
    "tiny-gpt2": ("tiny-gpt2-sentiment-lora-xs-d128-v1", 1200),
    "smollm2-135m": ("smollm2-135m-sentiment-lora-xs-d32-v1", 400),
}


def nsga2(problem: lp.Problem, objectives: tuple[str, str], evaluations: int) -> np.ndarray:
    face = problem.to_pymoo(objectives=objectives)
    result = minimize(face, NSGA2(pop_size=40, sampling=face.sampling), ("n_eval", evaluations), seed=1)
    return result.F


def differential_evolution(problem: lp.Problem, objectives: tuple[str, str], evaluations: int) -> np.ndarray:
    f = problem.to_nevergrad(objectives=objectives)
    f.parametrization.random_state.seed(1)
    optimizer = ng.optimizers.DE(f.parametrization, budget=evaluations)
    optimizer.suggest(problem.x0)
    optimizer.minimize(f)
    return np.array([candidate.losses for candidate in optimizer.pareto_front()])


def main(model: str = "tiny-gpt2", cost: str = "drift", evaluations: int | str | None = None) -> None:
    id, budget = PROBLEMS[model]
    budget = int(evaluations or budget)
    problem = lp.make(id)
    fronts = {}
    for name, optimizer in (("NSGA-II (pymoo)", nsga2), ("DE (Nevergrad)", differential_evolution)):
        F = optimizer(problem, ("loss", cost), budget)
        fronts[name] = F[non_dominated(F)]
        print(f"{name}: {len(fronts[name])} points, loss from {F[:, 0].min():.4f} to {F[:, 0].max():.4f}", flush=True)
    picture = front_png(
        {name: F[:, ::-1] for name, F in fronts.items()},
        pretrained=(0.0, problem(problem.x0)),
        title=f"{id}: {budget:,} evaluations each",
        labels=(COSTS[cost], f"search loss ({problem.unit})"),
    )
    Path("front.png").write_bytes(picture)
    print(f"pretrained model: loss {problem(problem.x0):.4f}, {cost} 0\npicture: front.png")


if __name__ == "__main__":
    main(*sys.argv[1:4])
