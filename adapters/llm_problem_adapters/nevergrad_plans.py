"""Experiment plans for Nevergrad's benchmark: named problems by optimizers by budgets.

    python -m nevergrad.benchmark llm_problem_tiny --imports=…/llm_problem_adapters/nevergrad_plans.py --seed=1
    python -m llm_problem_adapters.nevergrad_benchmark llm_problem_tiny --seed=1        # without cv2 and gym

Each loss in the table is that of the recommended point on the held-out *dev* split, and pseudotime is in seconds of
simulated parallel workers on this machine. All optimizers here repeat with their seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import llm_problem as lp
from llm_problem_adapters.nevergrad_experiments import experiments
from llm_problem_adapters.nevergrad_registry import register_with_nevergrad

xpbase = experiments()

OPTIMIZERS = (
    "RandomSearch", "OnePlusOne", "DE", "TwoPointsDE", "PSO", "CMA", "DiagonalCMA", "TBPSA",
    "LPGeneticAlgorithm", "LPSimulatedAnnealing", "LPParticleSwarm", "LPDifferentialEvolution",
)  # fmt: skip


@xpbase.registry.register
def llm_problem_tiny(seed: int | None = None) -> Iterator[Any]:
    """Four problems on the bundled models; seconds to a minute each."""
    names = (
        "tiny-gpt2-prose-lora-xs-d32-v1",
        "tiny-gpt2-prose-random-d64-v1",
        "tiny-gpt2-sentiment-lora-xs-d128-v1",
        "tiny-bert-prose-lora-xs-d32-v1",
    )
    yield from plan(names, budgets=(100, 400), workers=(1, 16), seed=seed)


@xpbase.registry.register
def llm_problem_smollm2(seed: int | None = None) -> Iterator[Any]:
    """Three problems on SmolLM2-135M."""
    names = (
        "smollm2-135m-sentiment-lora-xs-d32-v1",
        "smollm2-135m-sentiment-lora-xs-d128-v1",
        "smollm2-135m-sentiment-random-d64-v1",
    )
    yield from plan(names, budgets=(400, 2000), workers=(1, 16), seed=seed)


def plan(
    names: Sequence[str],
    *,
    budgets: Sequence[int],
    workers: Sequence[int],
    seed: int | None,
    optimizers: Sequence[str] = OPTIMIZERS,
) -> Iterator[Any]:
    """Experiments on each named problem, which is made when its first one is asked for.

    Args:
        names: of registered problems.
        budgets: evaluations.
        workers: points that are asked for before one is told.
        seed: of the whole plan; None draws new ones each time.
        optimizers: names in Nevergrad's registry, ours included.
    """
    register_with_nevergrad()
    seeds = xpbase.create_seed_generator(seed)
    for name in names:
        f = lp.make(name).to_nevergrad()
        for budget in budgets:
            for num_workers in workers:
                for optimizer in optimizers:
                    drawn = next(seeds)
                    own = None if drawn is None else int(drawn)  # Python's random.seed refuses numpy's integers
                    experiment = xpbase.Experiment(f, optimizer, budget, num_workers=num_workers, seed=own)
                    if not experiment.is_incoherent:
                        yield experiment
