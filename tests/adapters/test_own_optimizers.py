"""What every algorithm of ours keeps to, with each of its kinds of options: parts, seeds, records, bounds, losses."""

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import list_optimizers, make_optimizer, minimize
from llm_problem_adapters.differential_evolution import STRATEGIES
from llm_problem_adapters.genetic_algorithm_improved import ALL_CROSSOVERS
from llm_problem_adapters.registry import OWN
from tests.adapters.driving import run, sphere

BLACK_BOX = [name for name in OWN if name in list_optimizers(gradients=False)]
KINDS = {
    "differential-evolution": [{"strategy": strategy, "weight": 1.5} for strategy in STRATEGIES],
    "evolution-strategy": [{"boundary": kind, "first_move": 9, "max_step": 9} for kind in ("reflect", "clip")],
    "genetic-algorithm": [{"population": 9, "selected": 3, "crossover": kind} for kind in ("multi-point", "uniform")],
    "genetic-algorithm-document": [{"population": 9, "selected": 3}],
    "genetic-algorithm-improved": [{"crossover": kind, "patience": 2} for kind in ALL_CROSSOVERS],
    "natural-evolution-strategy": [
        {"covariance": covariance, "antithetic": antithetic, "step": 3.0}
        for covariance in ("diagonal", "full")
        for antithetic in (False, True)
    ],
    "particle-swarm": [
        {"boundary": boundary, "topology": topology, "max_velocity": 30}
        for boundary in ("absorb", "reflect")
        for topology in ("global", "ring")
    ],
    "random-search": [{}],
    "simulated-annealing": [{"boundary": kind, "first_move": 8.0} for kind in ("reflect", "clip")],
    "spsa": [{"width": 2.0, "normalised": kind} for kind in (False, True)],
}
LOWER, UPPER = np.array([-1, -2, -np.inf, -2]), 0.8


def test_every_algorithm_is_among_them():
    assert set(KINDS) == set(BLACK_BOX)


def each_kind():
    return pytest.mark.parametrize(
        ("name", "options"),
        [
            pytest.param(name, options, id="-".join([name, *map(str, options.values())]))
            for name, kinds in KINDS.items()
            for options in kinds
        ],
    )


@each_kind()
@pytest.mark.parametrize("batch_size", [None, 5])
def test_parts_records_seeds_and_bounds(name, options, batch_size):
    def fresh(seed):
        settings = {"dimension": 4, "x0": 0.0, "bounds": (LOWER, UPPER), "sigma": [1, 9, 1, 1], "horizon": 120}
        return make_optimizer(name, **settings, batch_size=batch_size, seed=seed, **options)

    whole, losses = run(fresh(5), sphere, 120)
    replayed, done = fresh(5), 0
    while done < 61:  # told what is on record, in other parts, up to the middle of a generation
        X = replayed.ask(min(4, 61 - done))
        replayed.tell(X, losses[done : done + len(X)])
        done += len(X)
    np.testing.assert_array_equal(run(replayed, sphere, 59, max_n=7)[0], whole[61:])
    assert not np.array_equal(run(fresh(6), sphere, 120)[0], whole)
    for x in [*whole, replayed.recommend()]:
        assert (x >= LOWER).all() and (x <= UPPER).all()


@pytest.mark.filterwarnings("error")
@each_kind()
@pytest.mark.parametrize("start_at_x0", [True, False])
def test_losses_that_are_not_finite(name, options, start_at_x0):
    settings = {"dimension": 3, "x0": 0.0, "bounds": None, "sigma": 1.0, "horizon": 400}
    optimizer = make_optimizer(name, **settings, start_at_x0=start_at_x0, **options)
    points, _ = run(optimizer, lambda X: np.full(len(X), np.nan), 60)
    assert np.isfinite(points).all()
    assert np.isfinite(optimizer.recommend()).all()
    optimizer = make_optimizer(name, **settings, start_at_x0=start_at_x0, **options)
    points, losses = run(optimizer, lambda X: np.where(X[:, 0] > 0, np.nan, sphere(X)), 300)
    assert np.isfinite(points).all() and np.isfinite(losses).any()
    assert optimizer.best_loss == np.nanmin(losses)
    assert optimizer.best_x[0] <= 0


@pytest.mark.filterwarnings("error")
@each_kind()
def test_a_start_in_the_corner_of_a_small_box_and_losses_of_any_size(name, options):
    """One dimension and three; a plateau, and losses near the largest and the smallest numbers."""
    for d in (1, 3):
        for f in (lambda X: np.zeros(len(X)), lambda X: -1e300 * sphere(X), lambda X: 1e-300 * sphere(X)):
            settings = {"dimension": d, "x0": 0.0, "bounds": (0, 1e-3), "sigma": 1.0, "horizon": 60}
            optimizer = make_optimizer(name, **settings, **options)
            points, _ = run(optimizer, f, 60)
            for x in [*points, optimizer.recommend()]:
                assert (x >= 0).all() and (x <= 1e-3).all()


@pytest.fixture(scope="module")
def tiny():
    return lp.make("tiny-bert-prose-random-d32-v1")


@pytest.mark.parametrize("name", [name for name in OWN if name != "genetic-algorithm-document"])
def test_defaults_suit_the_scale_of_the_problems(name, tiny):
    """The document's mutation of 0.01 in a population of 50 has no time to do so."""
    result = minimize(tiny, name, 80, seed=1)
    assert result.loss < result.losses[0] - 0.05
    assert np.abs(result.x).max() <= 5
    assert result.loss == pytest.approx(tiny(result.x), abs=2e-6)
