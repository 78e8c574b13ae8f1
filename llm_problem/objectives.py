"""The objectives and constraints of candidates, from what a description asks for.

F_1 = first objective + Σ weight · quantity     (regularisation)
F_k = k-th objective
G_j = quantity − limit, feasible where ≤ 0      (constraints)
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from llm_problem.drift import Drift
from llm_problem.evaluation import SerialEvaluator
from llm_problem.forgetting import Forgetting
from llm_problem.quantities import DIFFERENTIABLE, OF_EVERY_MODEL
from llm_problem.spec import ProblemSpec
from llm_problem.tasks.batch import TokenBatch
from llm_problem.written import Written


class Objectives:
    """X → F and G; each quantity is computed once for a candidate, however often it counts.

    Args:
        spec: which quantities, weights and limits, and the task.
        evaluator: gives log-probabilities.
        drift: gives drift.
        forgetting: gives forgetting.
        written: gives metrics of texts.
    """

    def __init__(
        self, spec: ProblemSpec, evaluator: SerialEvaluator, drift: Drift, forgetting: Forgetting, written: Written
    ) -> None:
        self._spec, self._evaluator, self._written = spec, evaluator, written
        self._drift, self._forgetting = drift, forgetting

    def values(self, X: np.ndarray, batch: TokenBatch) -> np.ndarray:
        """F (n, m) float64 of X (n, d) on the examples of a batch; NaN for a row that is not finite."""
        return self._objectives(self._quantities(X, batch, self._spec.minimised))

    def all(self, X: np.ndarray, batch: TokenBatch) -> tuple[np.ndarray, np.ndarray]:
        """F (n, m) and G (n, c) float64 of X (n, d) on the examples of a batch; NaN for a row that is not finite."""
        found = self._quantities(X, batch, self._spec.quantities)
        G = [found[name] - limit for name, limit in self._spec.constraints]
        return self._objectives(found), np.stack(G, axis=1) if G else np.empty((len(X), 0))

    def of_model(self, x: np.ndarray) -> dict[str, float]:
        """Drift, forgetting and norm at a finite x (1, d), those of them that the description names."""
        return {name: float(self._own(x, name)[0]) for name in OF_EVERY_MODEL if name in self._spec.quantities}

    def value_and_grad(self, x: np.ndarray, batch: TokenBatch) -> tuple[float, np.ndarray]:
        """The one objective at x (d,), regularisation included, and its gradient (d,).

        Raises:
            RuntimeError: there are several, or a part of it is not differentiable.
        """
        spec = self._spec
        if len(spec.objectives) > 1 or not spec.minimised <= set(DIFFERENTIABLE):
            names = ", ".join(dict.fromkeys((*spec.objectives, *sorted(spec.minimised))))
            raise RuntimeError(f"{names} has no gradient here: one objective of {', '.join(DIFFERENTIABLE)} has")
        point = torch.tensor(x, requires_grad=True)
        total, gradient = 0.0, np.zeros_like(x)
        for name, weight in ((spec.objectives[0], 1.0), *spec.regularisation):
            value = weight * self._differentiable(point, name, batch)
            (part,) = torch.autograd.grad(value, point)  # one graph at a time
            total, gradient = total + float(value.detach()), gradient + part.numpy()
        return total, gradient

    def _differentiable(self, x: torch.Tensor, name: str, batch: TokenBatch) -> torch.Tensor:
        if name == "loss":
            return self._spec.task.loss(self._evaluator.differentiable_log_probs(x, batch), batch)
        if name == "forgetting":
            return self._forgetting.differentiable(x)
        return self._drift.differentiable(x) if name == "drift" else (x * x).mean()

    def _objectives(self, found: dict[str, np.ndarray]) -> np.ndarray:
        F = np.stack([found[name] for name in self._spec.objectives], axis=1)  # (n, m), a copy
        for name, weight in self._spec.regularisation:
            F[:, 0] += weight * found[name]
        return F

    def _quantities(self, X: np.ndarray, batch: TokenBatch, names: Iterable[str]) -> dict[str, np.ndarray]:
        """name → (n,) of X (n, d); NaN for a row that is not finite."""
        found = {name: np.full(len(X), np.nan) for name in names}
        finite = np.flatnonzero(np.isfinite(X).all(axis=1))
        of_texts = [name for name in found if name in self._spec.task.text_metrics]
        of_task = [name for name in found if name not in (*OF_EVERY_MODEL, *of_texts)]
        if of_task:
            for i, log_probs in zip(finite, self._evaluator.log_probs(X[finite], batch), strict=True):
                scores = self._spec.task.scores(log_probs, batch)
                for name in of_task:
                    found[name][i] = scores[name]
        for i in finite if of_texts else ():  # one by one: no text depends on the population
            of_written = self._written.scores(X[i : i + 1], batch)
            for name in of_texts:
                found[name][i] = of_written[name]
        for name in set(found).intersection(OF_EVERY_MODEL):
            found[name][finite] = self._own(X[finite], name)
        return found

    def _own(self, X: np.ndarray, name: str) -> np.ndarray:
        """Drift, forgetting or norm (n,) of X (n, d)."""
        if name != "norm":
            return (self._drift if name == "drift" else self._forgetting).values(X)
        with np.errstate(over="ignore"):
            return np.array([np.mean(x * x) for x in X])  # one by one: the same bits in every population
