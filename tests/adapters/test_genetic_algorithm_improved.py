"""The improved genetic algorithm: its adaptation, restarts and crossovers, and the plain one as the reference."""

import numpy as np
import pytest

from llm_problem_adapters import GeneticAlgorithm, ImprovedGeneticAlgorithm
from llm_problem_adapters import genetic_operators as operators
from tests.adapters.driving import run, sphere


@pytest.mark.parametrize("crossover", ["blend", "simulated-binary"])
def test_a_generation_from_a_parallel_generator(crossover):
    ga = ImprovedGeneticAlgorithm(population=7, selected=3, crossover=crossover, alpha=0.4, eta=3.0, mutation=0.2)
    ga.setup(dimension=5, horizon=100, seed=11)
    points, losses = run(ga, sphere, 7)  # x0 and six more
    rng = np.random.default_rng(11)
    np.testing.assert_array_equal(points, np.vstack([np.zeros(5), rng.standard_normal((6, 5))]))
    parents = points[np.argsort(losses)[:3]]
    pairs = operators.random_pairs(3, 3, rng)
    if crossover == "blend":
        children = operators.blend_crossover(parents, pairs, rng, alpha=0.4)
    else:
        children = operators.simulated_binary_crossover(parents, pairs, rng, eta=3.0)
    np.testing.assert_array_equal(ga.ask(100), operators.gaussian_mutation(children, 0.2, rng))


def test_the_mutation_follows_children_that_are_better_than_both_parents():
    ga = ImprovedGeneticAlgorithm(population=5, selected=2, mutation=0.4).setup(dimension=8, horizon=100)
    run(ga, lambda X: np.arange(1.0, 1 + len(X)), 5)  # parents have the losses 1 (x0) and 1 (the next)
    assert ga._mutation_std() == 0.4
    X = ga.ask(10)
    assert len(X) == 4  # and the elite
    ga.tell(X, np.array([9.0, 2.0, 1.0, np.nan]))  # none is better
    strength = 0.4 * np.exp(-4 / 5 / 3)
    assert ga._mutation_std() == pytest.approx(strength)
    ga.tell(ga.ask(10), np.array([0.5, 0.4, 3.0, 0.6]))
    assert ga._mutation_std() == pytest.approx(min(0.4, strength * np.exp((3 - 4 / 5) / 3)))
    kept = ImprovedGeneticAlgorithm(adaptive=False, mutation=0.1).setup(dimension=8, horizon=100)
    run(kept, sphere, 100)
    assert kept._mutation_std() == 0.1


def test_a_child_is_compared_with_the_better_of_its_own_parents():
    ga = ImprovedGeneticAlgorithm(population=6, selected=3, elitism=1, mutation=0.4)
    ga.setup(dimension=3, horizon=100, start_at_x0=False)
    ga.tell(ga.ask(10), np.array([6.0, 1.0, 2.0, 5.0, 4.0, 3.0]))
    pairs = operators.random_pairs(3, 3, _at(ga.rng))
    ga.ask(10)
    np.testing.assert_array_equal(ga._better_parents, np.repeat(np.array([1.0, 2.0, 3.0])[pairs].min(axis=1), 2))


def _at(rng):
    """A generator in the same state, so that the next draws can be seen beforehand."""
    twin = np.random.default_rng()
    twin.bit_generator.state = rng.bit_generator.state
    return twin


def test_restarts_draw_about_the_best_point_and_keep_the_elite():
    ga = ImprovedGeneticAlgorithm(population=400, selected=4, patience=3, elitism=2, initial=0.5, mutation=0.3)
    ga.setup(dimension=3, x0=7.0, sigma=[1, 2, 1], horizon=9000)
    run(ga, sphere, 400)
    best, loss = ga.best_x.copy(), ga.best_loss
    for _ in range(3):
        X = ga.ask(1000)
        ga.tell(X, np.full(len(X), 1e6))
    drawn = ga.ask(1000)
    assert len(drawn) == 398  # without the two elites
    z = (drawn - best) / (0.5 * np.array([1, 2, 1]))
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.1)
    assert ga._mutation_std() == 0.3
    ga.tell(drawn, np.full(398, 2e6))
    np.testing.assert_array_equal(ga._parents[0], best)
    assert ga._parent_losses[0] == loss
    bred = ga.ask(1000)
    assert len(bred) == 398
    never = ImprovedGeneticAlgorithm(patience=None).setup(dimension=3, horizon=9000)
    run(never, lambda X: np.zeros(len(X)), 3000)
    assert never._parents is not None


@pytest.mark.parametrize("crossover", ["blend", "simulated-binary", "uniform"])
def test_without_bounds_it_does_not_run_away(crossover):
    """Neither on a plateau nor on noise, where blending at α = 0.5 widens the population each time."""
    rng = np.random.default_rng(0)
    for f in (lambda X: np.zeros(len(X)), lambda X: rng.random(len(X))):
        points, _ = run(ImprovedGeneticAlgorithm(crossover=crossover).setup(dimension=20, horizon=3000), f, 3000)
        assert np.abs(points).max() < 100


@pytest.mark.parametrize("condition", [1, 100])
def test_converges_and_beats_the_plain_one(condition):
    """Medians of 7 seeds on 10 dimensions, 1,000 evaluations."""
    scales = condition ** np.linspace(0, 1, 10)

    def f(X):
        return (scales * (X - 1) ** 2).sum(axis=1)

    def median(make):
        return np.median([run(make().setup(dimension=10, horizon=1000, seed=s), f, 1000)[1].min() for s in range(7)])

    improved = median(ImprovedGeneticAlgorithm)
    assert improved < 0.003 * f(np.zeros((1, 10)))[0]
    assert improved < median(GeneticAlgorithm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crossover": "two-point"}, r"crossover must be one of blend, simulated-binary, .*; got 'two-point'"),
        ({"alpha": -0.1}, "alpha must be a finite number of at least 0, got -0.1"),
        ({"eta": -1}, "eta must be a finite number of at least 0, got -1"),
        ({"mutation": 0}, "mutation must be a finite number above 0, got 0"),
        ({"elitism": 0}, "elitism must be an integer from 1 to 11, got 0"),
        ({"patience": 0}, "patience must be an integer of at least 1, got 0"),
        ({"selected": 13}, "selected must be an integer from 1 to 12, got 13"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        ImprovedGeneticAlgorithm(**options)
