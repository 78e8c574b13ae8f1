"""Driving an optimizer by hand: what the tests of the algorithms share."""

import numpy as np


def sphere(X):
    return ((X - 1.0) ** 2).sum(axis=1)


def run(optimizer, f, budget, max_n=1000):
    """Drive `f` for `budget` evaluations; every point asked (budget, d) and its losses."""
    points, losses = [], []
    while budget:
        X = optimizer.ask(min(max_n, budget))
        points.append(X)
        losses.append(f(X))
        optimizer.tell(X, losses[-1])
        budget -= len(X)
    return np.concatenate(points), np.concatenate(losses)


class ScriptedGenerator:
    """Hands out what a test wrote down, each method from its own list."""

    def __init__(self, **scripts):
        self.scripts = {name: list(values) for name, values in scripts.items()}

    def __getattr__(self, name):
        kind = int if name in ("integers", "permutation", "choice") else float
        return lambda *args, **kwargs: np.array(self.scripts[name].pop(0), dtype=kind)


def least_of_pymoo(f, dimension, make, budget, seeds=7):
    """The least of `f` in [−5, 5]ᵈ that an algorithm of pymoo finds, (seeds,); `make(sampling)` makes it, for a first
    generation of N(0, I)."""
    from pymoo.core.problem import Problem
    from pymoo.core.sampling import Sampling
    from pymoo.optimize import minimize

    class Boxed(Problem):
        def __init__(self):
            super().__init__(n_var=dimension, n_obj=1, xl=-5.0, xu=5.0)

        def _evaluate(self, X, out, *args, **kwargs):
            out["F"] = f(X)

    class Normal(Sampling):
        def _do(self, problem, n_samples, *, random_state, **kwargs):
            return np.clip(random_state.normal(size=(n_samples, problem.n_var)), problem.xl, problem.xu)

    runs = [minimize(Boxed(), make(Normal()), ("n_eval", budget), seed=seed, verbose=False) for seed in range(seeds)]
    return np.array([result.F[0] for result in runs])


def least_of_nevergrad(f, make, parametrization, budget, seeds=7):
    """The same of one of Nevergrad's; `make(parametrization, budget=…)` makes it on a new `parametrization()`."""
    least = []
    for seed in range(seeds):
        space = parametrization()
        space.random_state.seed(seed)
        optimizer, losses = make(space, budget=budget), []
        for _ in range(budget):
            candidate = optimizer.ask()
            losses.append(float(f(candidate.value[None])[0]))
            optimizer.tell(candidate, losses[-1])
        least.append(min(losses))
    return np.array(least)
