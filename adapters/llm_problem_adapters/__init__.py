"""Optimizers for `llm_problem`, and the loop that runs them.

>>> from llm_problem_adapters import minimize
>>> minimize(problem, "genetic-algorithm", budget=2000, seed=0)  # doctest: +SKIP

Importing this imports none of Nevergrad, pymoo, Optuna and pycma: each comes in when one of its optimizers is made.
"""

import importlib
from typing import TYPE_CHECKING, Any

from llm_problem_adapters.base import BaseOptimizer, SearchSpace
from llm_problem_adapters.cma_optimizer import CMAOptimizer
from llm_problem_adapters.differential_evolution import DifferentialEvolution
from llm_problem_adapters.evolution_strategy import EvolutionStrategy
from llm_problem_adapters.generalisation import Generalisation
from llm_problem_adapters.genetic_algorithm import GeneticAlgorithm
from llm_problem_adapters.genetic_algorithm_improved import ImprovedGeneticAlgorithm
from llm_problem_adapters.gradient import Adam
from llm_problem_adapters.hybrid import Hybrid
from llm_problem_adapters.limits import Limits
from llm_problem_adapters.minimize import minimize
from llm_problem_adapters.natural_evolution_strategy import NaturalEvolutionStrategy
from llm_problem_adapters.nevergrad_optimizer import NevergradOptimizer
from llm_problem_adapters.optuna_optimizer import OptunaOptimizer
from llm_problem_adapters.particle_swarm import ParticleSwarm
from llm_problem_adapters.pymoo_optimizer import PymooOptimizer
from llm_problem_adapters.random_search import RandomSearch
from llm_problem_adapters.recovering import recorded_points
from llm_problem_adapters.refinement import refine
from llm_problem_adapters.registry import list_optimizers, make_optimizer, takes_gradients
from llm_problem_adapters.replaying import replays
from llm_problem_adapters.result import Progress, Result
from llm_problem_adapters.simulated_annealing import SimulatedAnnealing
from llm_problem_adapters.spsa import SPSA

if TYPE_CHECKING:
    from llm_problem_adapters.nevergrad_registry import register_with_nevergrad
    from llm_problem_adapters.pymoo_algorithms import AskTell

__all__ = [
    "SPSA",
    "Adam",
    "AskTell",
    "BaseOptimizer",
    "CMAOptimizer",
    "DifferentialEvolution",
    "EvolutionStrategy",
    "Generalisation",
    "GeneticAlgorithm",
    "Hybrid",
    "ImprovedGeneticAlgorithm",
    "Limits",
    "NaturalEvolutionStrategy",
    "NevergradOptimizer",
    "OptunaOptimizer",
    "ParticleSwarm",
    "Progress",
    "PymooOptimizer",
    "RandomSearch",
    "Result",
    "SearchSpace",
    "SimulatedAnnealing",
    "list_optimizers",
    "make_optimizer",
    "minimize",
    "recorded_points",
    "refine",
    "register_with_nevergrad",
    "replays",
    "takes_gradients",
]

_LATER = {"AskTell": "pymoo_algorithms", "register_with_nevergrad": "nevergrad_registry"}  # import another library


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
