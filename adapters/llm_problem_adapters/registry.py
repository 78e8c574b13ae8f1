"""The optimizers by name: the project's own, pycma, Optuna's samplers, and all of Nevergrad and pymoo."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import importlib.util
import inspect
from typing import Any

from llm_problem_adapters.base import BaseOptimizer

WHERE_ALL_ARE = "; `llm-problem list --optimizers` and list_optimizers() name all"

# Name → module and class (and the classmethod that configures it) in this package; imported when used.
OWN: dict[str, tuple[str, str]] = {
    "adam": ("gradient", "Adam"),
    "differential-evolution": ("differential_evolution", "DifferentialEvolution"),
    "evolution-strategy": ("evolution_strategy", "EvolutionStrategy"),
    "genetic-algorithm": ("genetic_algorithm", "GeneticAlgorithm"),
    "genetic-algorithm-document": ("genetic_algorithm", "GeneticAlgorithm.document"),
    "genetic-algorithm-improved": ("genetic_algorithm_improved", "ImprovedGeneticAlgorithm"),
    "hybrid": ("hybrid", "Hybrid"),
    "natural-evolution-strategy": ("natural_evolution_strategy", "NaturalEvolutionStrategy"),
    "particle-swarm": ("particle_swarm", "ParticleSwarm"),
    "random-search": ("random_search", "RandomSearch"),
    "simulated-annealing": ("simulated_annealing", "SimulatedAnnealing"),
    "spsa": ("spsa", "SPSA"),
}

PYCMA = ("cma", "cma-diagonal")  # pycma's CMA-ES, full and diagonal

# Those that are given gradients: no black-box optimizers, but references for them.
WITH_GRADIENTS = frozenset({"adam", "hybrid"})


def takes_gradients(name: str) -> bool:
    """Whether the optimizer of that name is given gradients, so that it is a reference and no black-box optimizer."""
    return name in WITH_GRADIENTS


def own_optimizers(*, gradients: bool = True) -> list[str]:
    """The names of this package's own optimizers, and of pycma's where that is installed; `gradients` as below."""
    names = [name for name in OWN if gradients or not takes_gradients(name)]
    return [*names, *PYCMA] if _installed("cma") else names


def list_optimizers(pattern: str = "*", *, gradients: bool = True) -> list[str]:
    """The names `make_optimizer` takes that match a shell pattern ("nevergrad:*DE"), own ones first.

    Those of a library that is not installed are left out. Listing Nevergrad's imports Nevergrad.

    Args:
        pattern: of the names.
        gradients: whether those are listed too that are given gradients (`takes_gradients`): "adam" and "hybrid".
    """
    names = own_optimizers(gradients=gradients)
    if _may_match(pattern, "optuna:"):
        from llm_problem_adapters.optuna_optimizer import sampler_names

        names += [f"optuna:{name}" for name in sampler_names()]
    if _installed("pymoo"):
        from llm_problem_adapters.pymoo_optimizer import ALGORITHMS

        names += sorted(f"pymoo:{name}" for name in ALGORITHMS)
    if _installed("nevergrad") and _may_match(pattern, "nevergrad:"):
        from llm_problem_adapters.nevergrad_optimizer import nevergrad_names

        names += [f"nevergrad:{name}" for name in nevergrad_names()]
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def make_optimizer(
    name: str,
    *,
    dimension: int,
    x0: Any,
    bounds: Any,
    sigma: Any,
    horizon: int,
    batch_size: int | None = None,
    seed: int = 0,
    start_at_x0: bool = True,
    **options: Any,
) -> BaseOptimizer:
    """An optimizer by name, set up and ready to be asked.

    Args:
        name: see `list_optimizers`.
        dimension: d.
        x0: start, a number or (d,).
        bounds: (lower, upper), each a number or (d,), or None.
        sigma: standard deviation of a typical step, a number or (d,).
        horizon: evaluations the optimizer plans for.
        batch_size: points proposed before any is told, for algorithms without generations of their own.
        seed: a non-negative integer.
        start_at_x0: whether x0 is evaluation one.
        **options: of that optimizer.

    Raises:
        ImportError: the library it comes from is not installed; the message is the pip line.
        TypeError: that optimizer has no such option.
        ValueError: no such name, or an argument out of its range.
    """
    return configure(name, **options).setup(
        dimension=dimension,
        x0=x0,
        bounds=bounds,
        sigma=sigma,
        horizon=horizon,
        batch_size=batch_size,
        seed=seed,
        start_at_x0=start_at_x0,
    )


def configure(name: str, **options: Any) -> BaseOptimizer:
    """An optimizer by name with its options, not yet set up; raises what `make_optimizer` does."""
    library, _, algorithm = name.partition(":")
    if library == "nevergrad" and algorithm:
        from llm_problem_adapters.nevergrad_optimizer import NevergradOptimizer

        return NevergradOptimizer(algorithm, **options)
    if library == "pymoo" and algorithm:
        from llm_problem_adapters.pymoo_optimizer import PymooOptimizer

        return PymooOptimizer(algorithm, **options)
    if library == "optuna" and algorithm:
        from llm_problem_adapters.optuna_optimizer import OptunaOptimizer

        return OptunaOptimizer(algorithm, **options)
    if name in PYCMA:
        from llm_problem_adapters.cma_optimizer import CMAOptimizer

        return CMAOptimizer(diagonal=name == "cma-diagonal", **options)
    if name not in OWN:
        parts = {known: known.rpartition(":")[2].lower() for known in list_optimizers()}
        wanted = name.rpartition(":")[2].lower()
        close = difflib.get_close_matches(wanted, set(parts.values()), n=4, cutoff=0.6)
        near = ", ".join(known for known, part in parts.items() if part in close) or "none"
        raise ValueError(f"there is no optimizer {name!r}; near names: {near}{WHERE_ALL_ARE}")
    return _own(name, options)


def _own(name: str, options: dict[str, Any]) -> BaseOptimizer:
    module, path = OWN[name]
    factory: Any = importlib.import_module(f"{__package__}.{module}")
    for attribute in path.split("."):
        factory = getattr(factory, attribute)
    known = list(inspect.signature(factory).parameters)
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3) or known
            raise TypeError(f"{name} has no option {option!r}; it has {', '.join(near) or 'none'}")
    return factory(**options)


def _installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _may_match(pattern: str, prefix: str) -> bool:
    """Whether a name that begins with `prefix` could match, so that "pymoo:*" need not import Nevergrad."""
    literal = pattern[: min((pattern.find(c) for c in "*?[" if c in pattern), default=len(pattern))]
    return literal.startswith(prefix) or prefix.startswith(literal)
