"""Simulated annealing (Kirkpatrick, Gelatt and Vecchi, 1983), with steps adapted to the acceptance rate.

Sources: S. Kirkpatrick, C. Gelatt, M. Vecchi, *Optimization by simulated annealing*, Science 220, 1983; N.
Metropolis et al., *Equation of state calculations by fast computing machines*, 1953 (acceptance); A. Corana et al.,
*Minimizing multimodal functions of continuous variables with the simulated annealing algorithm*, ACM TOMS 13,
1987 (step adaptation); W. Ben-Ameur, *Computing the initial temperature of simulated annealing*, 2004; H.
Szu, R. Hartley, *Fast simulated annealing*, 1987 (Cauchy schedule); S. Geman, D. Geman, 1984 (logarithmic
schedule).
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.feasibility import INFEASIBLE
from llm_problem_adapters.options import choice, fraction, integer, number, positive

SCHEDULES = ("geometric", "linear", "cauchy", "logarithmic")
BOUNDARIES = ("reflect", "clip")


class SimulatedAnnealing(BaseOptimizer):
    """A random walk x' ~ N(x, (s·sigma)²) with Metropolis acceptance, cooled over the horizon.

    Temperatures are in the units of the loss (nats); the scale is found from the losses themselves, so that
    it needs no tuning. A generation is one candidate; with a `batch_size` of k it is k candidates proposed
    from the current state, which are then judged in order: each is accepted or not against the state that the
    ones before it left. With k = 1 that is the Metropolis walk; as the temperature falls it tends to taking
    the best of the k.

    Args:
        schedule: how the temperature falls from the initial to the final one: "geometric" (exponential),
            "linear", "cauchy" (1/n) or "logarithmic" (1/log n); the last two are stretched so that they too
            end there.
        initial_temperature: T₀ > 0 in units of the loss, or None: estimated from the first uphill moves.
        initial_acceptance: χ₀ in (0, 1), the probability with which the median of the first uphill moves is
            accepted; for the estimate.
        uphill_moves: number of uphill moves that the estimate is made from, at least 1.
        final_ratio: final temperature over initial temperature, in (0, 1].
        first_move: length of the first moves in units of sigma, positive: s begins at first_move/√d.
        max_step: the most that s, the step of one coordinate in units of sigma, may grow to; positive.
        target_acceptance: mean acceptance probability that the step is adapted to, in (0, 1).
        adaptation: gain of the step's adaptation, not negative; 0 keeps the step.
        boundary: "reflect" or "clip" what leaves the bounds.

    Raises:
        ValueError: an option out of its range.
    """

    name = "simulated-annealing"

    def __init__(
        self,
        *,
        schedule: str = "geometric",
        initial_temperature: float | None = None,
        initial_acceptance: float = 0.1,
        uphill_moves: int = 10,
        final_ratio: float = 1e-3,
        # The temperature follows from the losses of the first moves, and at temperature T a quadratic stays
        # d·T/2 above its optimum: first moves of one length whatever d is keep that share of the way equal
        # (measured on quadratics, Rastrigin and logistic losses, d = 8–256: a fixed step per coordinate
        # heated the larger ones up for good).
        first_move: float = 0.5,
        max_step: float = 5.0,
        # 0.234 is the best rate of a Gaussian walk in many dimensions (Roberts, Gelman and Gilks, 1997), and
        # near the 1/5 of the (1+1)-ES, which annealing becomes when it is cold: one target serves the whole
        # run.
        target_acceptance: float = 0.234,
        adaptation: float = 1.0,
        boundary: str = "reflect",
    ) -> None:
        self.schedule = choice("schedule", schedule, SCHEDULES)
        self.initial_temperature = (
            None if initial_temperature is None else positive("initial_temperature", initial_temperature)
        )
        self.initial_acceptance = fraction("initial_acceptance", initial_acceptance)
        self.uphill_moves = integer("uphill_moves", uphill_moves, 1)
        self.final_ratio = number("final_ratio", final_ratio, 0, 1, above=True)
        self.first_move = positive("first_move", first_move)
        self.max_step = positive("max_step", max_step)
        self.target_acceptance = fraction("target_acceptance", target_acceptance)
        self.adaptation = number("adaptation", adaptation, 0)
        self.boundary = choice("boundary", boundary, BOUNDARIES)

    def _setup(self) -> None:
        self._current, self._loss = self.space.x0, np.inf  # state x (d,) and its loss
        self._s = min(self.max_step, self.first_move / np.sqrt(self.space.dimension))  # step of a coordinate, in sigmas
        self._uphill: list[float] = []  # the first uphill differences

    def _tell_x0(self, loss: float) -> None:
        self._loss = loss

    def _ask(self) -> np.ndarray:
        X = self.rng.standard_normal((self.batch_size or 1, self.space.dimension))  # (k, d) ~ N(0, I)
        X *= self._s * self.space.sigma
        X += self._current
        if self.boundary == "reflect":
            X = reflect(X, self.space.lower, self.space.upper)
        return np.clip(X, self.space.lower, self.space.upper)

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        start, probabilities = self._loss, []
        for x, loss in zip(X, F, strict=True):
            # The order of infeasible points is no difference of losses, nor is one that is not finite.
            self._note_uphill(loss - start if max(loss, start) < INFEASIBLE else 0.0)
            probabilities.append(acceptance_probability(loss, start, self.temperature))
            if self.rng.random() < acceptance_probability(loss, self._loss, self.temperature):
                self._current, self._loss = x, float(loss)
        if np.isfinite(start):  # nothing is learnt about the step where there was nothing to compare with
            self._adapt(np.asarray(probabilities))

    @property
    def temperature(self) -> float:
        """T now, in units of the loss; 0 while it has to be estimated and no move has gone uphill."""
        initial = self.initial_temperature
        if initial is None:
            if not self._uphill:
                return 0.0
            # The (lower) median, not the mean: a penalty of 1e10 for one failed evaluation is not the loss's scale.
            typical = sorted(self._uphill)[(len(self._uphill) - 1) // 2]
            initial = typical / float(np.log(1 / self.initial_acceptance))  # exp(−Δ/T₀) = χ₀
        return scheduled_temperature(
            self.schedule, initial, initial * self.final_ratio, self.evaluations_told, self.horizon
        )

    def _note_uphill(self, difference: float) -> None:
        if difference > 0 and len(self._uphill) < self.uphill_moves:
            self._uphill.append(float(difference))

    def _adapt(self, probabilities: np.ndarray) -> None:
        """Robbins–Monro on log s toward the target; the probabilities (k,) are steadier than accept or
        reject."""
        gain = self.adaptation / np.sqrt(self.space.dimension + 1)
        change = gain * float(np.sum(probabilities - self.target_acceptance))
        # At most a factor of e at once, for a large batch says the same thing k times.
        self._s = min(self.max_step, self._s * float(np.exp(np.clip(change, -1, 1))))


def acceptance_probability(candidate: float, current: float, temperature: float) -> float:
    """Metropolis: min(1, exp(−(candidate − current)/T)), losses in the units of T ≥ 0; +inf is never
    accepted."""
    if not np.isfinite(candidate):
        return 0.0
    if candidate <= current:
        return 1.0
    return float(np.exp(-(candidate - current) / temperature)) if temperature > 0 else 0.0


def scheduled_temperature(schedule: str, initial: float, final: float, n: int, horizon: int) -> float:
    """T after n evaluations: `initial` at n = 0, `final` from the horizon on; 0 < final ≤ initial."""
    n = min(n, horizon)
    progress = n / horizon
    if schedule == "geometric":
        return initial * (final / initial) ** progress
    if schedule == "linear":
        return initial + (final - initial) * progress
    if schedule == "logarithmic":
        progress = np.log1p(n) / np.log1p(horizon)
    return initial / (1 + (initial / final - 1) * progress)  # "cauchy": 1/n


def reflect(X: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """X (n, d) mirrored once at the bounds (d,) that it crosses; ±inf is no bound. Far crossings may still be
    out."""
    X = np.where(lower > X, 2 * lower - X, X)
    return np.where(upper < X, 2 * upper - X, X)
