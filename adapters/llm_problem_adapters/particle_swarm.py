"""Particle swarm optimisation (Kennedy and Eberhart, 1995), global-best and ring.

Sources: J. Kennedy, R. Eberhart, *Particle swarm optimization*, ICNN 1995; Y. Shi, R. Eberhart, *A modified
particle swarm optimizer*, 1998 (inertia weight); M. Clerc, J. Kennedy, *The particle swarm: explosion, stability, and
convergence*, IEEE TEC 6(1), 2002 (the constants); J. Kennedy, R. Mendes, *Population structure and particle
swarm performance*, 2002 (ring); S. Helwig, R. Wanka, *Particle swarm optimization in high-dimensional bounded
search spaces*, 2007 (what happens at the bounds).
"""

from __future__ import annotations

import numpy as np

from llm_problem_adapters.base import BaseOptimizer
from llm_problem_adapters.options import choice, integer, number, positive

TOPOLOGIES = ("global", "ring")
BOUNDARIES = ("absorb", "reflect")


class ParticleSwarm(BaseOptimizer):
    """Particles drawn to the best place each has seen and the best its neighbourhood has seen.

    A generation is the whole swarm. The first is N(x0, sigma²), moved to the nearest value inside the bounds;
    with `start_at_x0` its first particle is x0, which is not asked for again, so that generation has one
    point fewer.

    Args:
        particles: n, at least 2.
        inertia: ω, the share of its velocity that a particle keeps, in [0, 1].
        cognitive: c₁, pull to the particle's own best, not negative.
        social: c₂, pull to its neighbourhood's best, not negative.
        topology: "global" (everyone is a neighbour) or "ring".
        neighbours: of the ring, on either side of a particle, at least 1.
        max_velocity: limit of a coordinate's change in one generation, in units of sigma, positive; it keeps
            the swarm from running away where there are no bounds.
        boundary: what a coordinate that leaves the bounds does: "absorb" (stays on the bound) or "reflect";
            its velocity is zeroed either way.

    Raises:
        ValueError: an option out of its range.
    """

    name = "particle-swarm"

    def __init__(
        self,
        *,
        # 15 and a limit of 1: the best compromise between quadratics and Rastrigin, d = 8–256, 300–2,000
        # evaluations.
        particles: int = 15,
        # Clerc and Kennedy's constriction χ = 0.7298 with φ = 4.1, written as an inertia weight: c = χ·φ/2.
        inertia: float = 0.7298,
        cognitive: float = 1.49618,
        social: float = 1.49618,
        topology: str = "global",
        neighbours: int = 1,
        max_velocity: float = 1.0,
        boundary: str = "absorb",
    ) -> None:
        self.particles = integer("particles", particles, 2)
        self.inertia = number("inertia", inertia, 0, 1)
        self.cognitive = number("cognitive", cognitive, 0)
        self.social = number("social", social, 0)
        self.topology = choice("topology", topology, TOPOLOGIES)
        self.neighbours = integer("neighbours", neighbours, 1)
        self.max_velocity = positive("max_velocity", max_velocity)
        self.boundary = choice("boundary", boundary, BOUNDARIES)

    def _setup(self) -> None:
        n, d = self.particles, self.space.dimension
        X = self.space.x0 + self.rng.standard_normal((n, d)) * self.space.sigma  # (n, d) ~ N(x0, sigma²)
        if self.start_at_x0:
            X[0] = self.space.x0
        self._X = self.space.clip(X)  # positions
        self._V = np.zeros((n, d))  # velocities; at rest, so that the first step goes toward what is known to be good
        self._P = self._X.copy()  # (n, d) best place each has seen
        self._P_losses = np.full(n, np.inf)  # (n,) and its loss
        self._first_asked = 0  # x0's particle is not asked in the first generation

    def _tell_x0(self, loss: float) -> None:
        self._P_losses[0], self._first_asked = loss, 1

    def _ask(self) -> np.ndarray:
        return self._X[self._first_asked :].copy()

    def _tell(self, X: np.ndarray, F: np.ndarray) -> None:
        losses = np.concatenate([self._P_losses[: self._first_asked], F])  # (n,)
        self._first_asked = 0
        better = losses < self._P_losses  # +inf is never better, so a best place that is not finite stays the start
        self._P[better], self._P_losses[better] = self._X[better], losses[better]
        self._move()

    def _move(self) -> None:
        n, d = self._X.shape
        leaders = self._P[neighbourhood_best(self._P_losses, self.topology, self.neighbours)]  # (n, d)
        r1, r2 = self.rng.random((n, d)), self.rng.random((n, d))  # ~ U[0, 1)
        V = (  # Shi & Eberhart 1998
            self.inertia * self._V + self.cognitive * r1 * (self._P - self._X) + self.social * r2 * (leaders - self._X)
        )
        limit = self.max_velocity * self.space.sigma  # (d,)
        V = np.clip(V, -limit, limit)
        X = self._X + V
        inside = self.space.clip(X)
        V[inside != X] = 0.0
        if self.boundary == "reflect":  # a bound crossed by more than the box is wide still ends on a bound
            inside = self.space.clip(2 * inside - X)
        self._X, self._V = inside, V


def neighbourhood_best(losses: np.ndarray, topology: str, neighbours: int = 1) -> np.ndarray:
    """Who leads each particle: indices (n,) of the lowest losses (n,) in its neighbourhood, itself included.

    On the ring, particle i's neighbourhood is i − neighbours … i + neighbours, modulo n; +inf is the worst
    loss. Of equals the particle itself leads, and otherwise the nearer.
    """
    n = len(losses)
    if topology == "global":
        return np.full(n, np.argmin(losses))
    offsets = sorted(range(-neighbours, neighbours + 1), key=abs)  # 0, ±1, ±2, …: the particle itself comes first
    members = (np.arange(n)[:, None] + np.array(offsets)) % n  # (n, 2·neighbours + 1)
    return members[np.arange(n), np.argmin(losses[members], axis=1)]
