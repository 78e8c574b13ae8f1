"""An optimizer that is begun again whenever it stops by itself, until the budget is spent."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_problem_adapters.registry import configure, takes_gradients

FRUITLESS = 3  # beginnings in a row that stop before they were told anything


class Restarting:
    """The optimizer of that name, from x0 each time; the seed of beginning k > 0 is drawn from (seed, k).

    It answers with its own recommended point where it was begun once, else with the best point told. One that is given
    gradients is begun once.

    Args:
        name: see `list_optimizers`.
        settings: of `make_optimizer`, without the name.
        options: of the optimizer.
    """

    def __init__(self, name: str, settings: dict[str, Any], options: dict[str, Any]) -> None:
        self.name, self._settings, self._options = name, settings, options
        self.seed, self.begun, self._told, self._fruitless = settings["seed"], 0, 0, 0
        self._best: tuple[float, np.ndarray] = (np.inf, np.array(settings["x0"], dtype=np.float64))
        self._begin()

    def _begin(self) -> None:
        seed = int(np.random.SeedSequence([self.seed, self.begun]).generate_state(1)[0]) if self.begun else self.seed
        # x0 is known by now, and what is left is what can be planned for.
        rest = {"horizon": max(1, self._settings["horizon"] - self._told)}
        again = {**rest, "start_at_x0": False} if self.begun else {}
        self._inner = configure(self.name, **self._options).setup(**{**self._settings, "seed": seed, **again})
        self.begun += 1
        self._since = 0

    @property
    def stop_reason(self) -> str | None:
        """Set where beginning again leads nowhere."""
        return self._inner.stop_reason if self._fruitless >= FRUITLESS else None

    def ask(self, max_n: int) -> np.ndarray:
        while self._inner.stop_reason is not None:
            self._fruitless = 0 if self._since else self._fruitless + 1
            if self._fruitless >= FRUITLESS:
                raise RuntimeError(f"{self.name} stops before it asks for anything: {self._inner.stop_reason}")
            self._begin()
        return self._inner.ask(max_n)

    def tell(self, X: np.ndarray, F: np.ndarray, G: np.ndarray | None = None) -> None:
        self._inner.tell(X, F, G)
        self._told += len(X)
        self._since += len(X)
        best = int(np.argmin(F))
        if F[best] < self._best[0]:
            self._best = float(F[best]), np.array(X[best])

    def recommend(self) -> np.ndarray:
        return self._inner.recommend() if self.begun == 1 else self._best[1].copy()


def restarting(name: str, options: dict[str, Any]) -> Any:
    """What `minimize` takes in place of the name."""
    if takes_gradients(name):
        return lambda **settings: configure(name, **options).setup(**settings)
    return lambda **settings: Restarting(name, settings, options)
