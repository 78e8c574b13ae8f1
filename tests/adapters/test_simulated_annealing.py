"""Simulated annealing: Metropolis by the formula and by counting, schedules, steps, and scipy's as the
reference."""

import numpy as np
import pytest
from scipy import stats

from llm_problem_adapters.random_search import RandomSearch
from llm_problem_adapters.simulated_annealing import (
    SCHEDULES,
    SimulatedAnnealing,
    acceptance_probability,
    reflect,
    scheduled_temperature,
)
from tests.adapters.driving import run, sphere


@pytest.mark.parametrize(
    ("candidate", "current", "temperature", "expected"),
    [
        (0.5, 0.3, 0.1, np.exp(-2.0)),
        (0.3, 0.3, 0.1, 1.0),
        (0.2, 0.3, 0.1, 1.0),
        (0.4, 0.3, 0.0, 0.0),
        (0.3, 0.3, 0.0, 1.0),
        (1e300, 0.3, 1e-9, 0.0),
        (0.3, np.inf, 0.1, 1.0),
        (np.inf, 0.3, 0.1, 0.0),
        (np.inf, np.inf, 0.1, 0.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_acceptance_is_metropolis(candidate, current, temperature, expected):
    assert acceptance_probability(candidate, current, temperature) == pytest.approx(expected)


def test_accepted_as_often_as_metropolis_says():
    """At one temperature, one uphill difference: the share of accepted moves, against the binomial."""
    annealing = SimulatedAnnealing(initial_temperature=0.2, final_ratio=1.0).setup(dimension=1, horizon=10)
    annealing.tell(annealing.ask(1), np.array([1.0]))
    accepted, n = 0, 4000
    for _ in range(n):
        annealing._loss, annealing._current = 1.0, np.zeros(1)
        annealing.tell(annealing.ask(1), np.array([1.3]))
        accepted += annealing._loss == 1.3
    assert stats.binomtest(accepted, n, np.exp(-0.3 / 0.2)).pvalue > 1e-3


def test_a_constant_temperature_samples_boltzmann():
    """Without cooling and without adaptation the walk's law is exp(−f/T): for f = x²/2 that is N(0, T)."""
    annealing = SimulatedAnnealing(initial_temperature=0.25, final_ratio=1.0, adaptation=0, first_move=1.0)
    annealing.setup(dimension=1, horizon=10, seed=3)
    states = []
    for _ in range(6000):
        X = annealing.ask(1)
        annealing.tell(X, 0.5 * (X**2).sum(axis=1))
        states.append(annealing._current[0])
    thinned = np.array(states[100::15])
    assert stats.kstest(thinned, stats.norm(scale=0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_the_initial_to_the_final_temperature(schedule):
    T = [scheduled_temperature(schedule, 2.0, 0.01, n, 50) for n in range(60)]
    assert T[0] == pytest.approx(2.0)
    assert T[50] == pytest.approx(0.01)
    assert (np.diff(T[:51]) < 0).all()
    assert T[51:] == [T[50]] * 9


def test_schedules_by_hand():
    assert scheduled_temperature("geometric", 4.0, 0.04, 5, 10) == pytest.approx(0.4)
    assert scheduled_temperature("linear", 4.0, 2.0, 5, 10) == pytest.approx(3.0)
    assert scheduled_temperature("cauchy", 4.0, 1.0, 5, 10) == pytest.approx(4 / 2.5)  # 1/T is linear
    halfway = np.sqrt(101) - 1  # log(1 + n) is half of log(1 + 100)
    assert scheduled_temperature("logarithmic", 4.0, 1.0, halfway, 100) == pytest.approx(4 / 2.5)


def test_the_temperature_comes_from_the_first_uphill_moves():
    annealing = SimulatedAnnealing(initial_acceptance=0.5, uphill_moves=3, final_ratio=1.0)
    annealing.setup(dimension=2, horizon=100)
    temperatures = []
    for loss in (1.0, 0.9, np.nan, 1.1, 0.5, 0.9, 1e10, 1e10):
        annealing.tell(annealing.ask(1), np.array([loss]))
        if loss == 1.1:
            annealing._loss = 0.9  # as if it was not accepted
        temperatures.append(annealing.temperature)
    expected = np.array([0, 0, 0, 0.2, 0.2, 0.2, 0.4, 0.4]) / np.log(2)  # medians of 0.2, 0.4, 1e10; no fourth
    np.testing.assert_allclose(temperatures, expected)


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1e4])
def test_the_scale_of_the_loss_does_not_matter(scale):
    reference, _ = run(SimulatedAnnealing().setup(dimension=6, horizon=200), sphere, 200)
    scaled, _ = run(SimulatedAnnealing().setup(dimension=6, horizon=200), lambda X: scale * sphere(X), 200)
    np.testing.assert_allclose(scaled, reference, atol=1e-6)


def test_steps_follow_the_acceptance_rate():
    rising = SimulatedAnnealing(max_step=2.0).setup(dimension=4, horizon=500)
    assert rising._s == pytest.approx(0.25)  # a move of length 0.5
    run(rising, lambda X: np.zeros(len(X)), 100)  # on a plateau every move is accepted
    assert rising._s == 2.0
    falling = SimulatedAnnealing().setup(dimension=4, horizon=500)
    run(falling, lambda X: np.linalg.norm(X, axis=1), 100)  # x0 is the best there is
    assert falling._s < 0.25
    kept = SimulatedAnnealing(adaptation=0).setup(dimension=4, horizon=500)
    run(kept, sphere, 100)
    assert kept._s == 0.25


def test_one_update_of_the_step_by_hand():
    annealing = SimulatedAnnealing(initial_temperature=0.5, final_ratio=1.0, target_acceptance=0.3, adaptation=0.8)
    annealing.setup(dimension=3, horizon=10)
    annealing.tell(annealing.ask(1), np.array([1.0]))
    s = annealing._s
    annealing.tell(annealing.ask(1), np.array([1.5]))
    assert annealing._s == pytest.approx(s * np.exp(0.8 / 2 * (np.exp(-1.0) - 0.3)))  # 2 = √(d + 1)


def test_a_batch_is_proposed_from_one_state_and_judged_in_order():
    annealing = SimulatedAnnealing(initial_temperature=1e-9).setup(dimension=2, horizon=100, batch_size=4, seed=2)
    annealing.tell(annealing.ask(9), np.array([1.0]))
    X = annealing.ask(9)
    z = np.random.default_rng(2).standard_normal((4, 2))
    np.testing.assert_allclose(X, z * 0.5 / np.sqrt(2))
    annealing.tell(X, np.array([0.9, 0.4, 0.6, np.nan]))  # cold: 0.6 is not accepted after 0.4
    np.testing.assert_array_equal(annealing._current, X[1])
    assert annealing._loss == 0.4


def test_reflection_by_hand():
    X = np.array([[-1.5, 0.5, 2.5, 4.0]])
    lower, upper = np.array([-1, -1, -1, -np.inf]), np.array([2, 2, 2, np.inf])
    np.testing.assert_array_equal(reflect(X, lower, upper), [[-0.5, 0.5, 1.5, 4.0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("start_at_x0", [True, False])
def test_losses_that_are_not_finite(batch_size, start_at_x0):
    annealing = SimulatedAnnealing().setup(
        dimension=3, horizon=400, batch_size=batch_size, start_at_x0=start_at_x0, seed=1
    )
    points, _ = run(annealing, lambda X: np.full(len(X), np.nan), 31)
    assert np.isfinite(points).all()
    points, _ = run(annealing, lambda X: np.where(X[:, 0] > 0, np.nan, sphere(X)), 300)
    assert np.isfinite(points).all()
    assert annealing.recommend()[0] <= 0
    assert sphere(annealing.recommend()[None]) < 1.5  # 1 is the best on this side


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"schedule": "quick"},
            "schedule must be one of geometric, linear, cauchy, logarithmic; got 'quick'",
        ),
        ({"boundary": "wrap"}, "boundary must be one of reflect, clip; got 'wrap'"),
        ({"initial_temperature": 0}, "initial_temperature must be a finite number above 0, got 0"),
        ({"initial_acceptance": 1}, "initial_acceptance must be a finite number above 0 and below 1, got 1"),
        ({"final_ratio": "1"}, "final_ratio must be a finite number above 0 and at most 1, got '1'"),
        ({"first_move": None}, "first_move must be a finite number above 0, got None"),
        ({"adaptation": "1"}, "adaptation must be a finite number of at least 0, got '1'"),
        ({"final_ratio": 2}, "final_ratio must be a finite number above 0 and at most 1, got 2"),
        ({"uphill_moves": 0}, "uphill_moves must be an integer of at least 1, got 0"),
        ({"first_move": np.nan}, "first_move must be a finite number above 0, got nan"),
        ({"max_step": -1}, "max_step must be a finite number above 0, got -1"),
        ({"adaptation": -1}, "adaptation must be a finite number of at least 0, got -1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedAnnealing(**options)


ROTATION, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))


def rotated_rastrigin(X):
    """Not separable, as a language model's loss is not: an algorithm that moves single coordinates has no
    gift."""
    Z = (X - 1.3) @ ROTATION
    return (Z**2 + 10 * (1 - np.cos(2 * np.pi * Z))).sum(axis=1)


def rosenbrock(X):
    return (100 * (X[:, 1:] - X[:, :-1] ** 2) ** 2 + (1 - X[:, :-1]) ** 2).sum(axis=1)


@pytest.mark.parametrize(("f", "factor"), [(sphere, 0.2), (rosenbrock, 1.0), (rotated_rastrigin, 1.5)])
def test_as_good_as_the_annealing_of_scipy(f, factor):
    """Medians of 7 seeds on 10 dimensions, 1,000 evaluations, the same start and box: ours at most `factor`
    times."""
    from scipy.optimize import dual_annealing

    ours, theirs = [], []
    for seed in range(7):
        annealing = SimulatedAnnealing().setup(dimension=10, bounds=(-5, 5), horizon=1000, seed=seed)
        ours.append(run(annealing, f, 1000)[1].min())
        result = dual_annealing(
            lambda x: f(x[None])[0],
            [(-5, 5)] * 10,
            no_local_search=True,
            maxfun=1000,
            rng=seed,
            x0=np.zeros(10),
        )
        theirs.append(result.fun)
    assert np.median(ours) <= factor * np.median(theirs), (np.median(ours), np.median(theirs))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_beats_random_search(schedule):
    def median(make):
        return np.median([
            run(make().setup(dimension=20, horizon=500, seed=seed), sphere, 500)[1].min() for seed in range(7)
        ])  # fmt: skip

    assert median(lambda: SimulatedAnnealing(schedule=schedule)) < 0.1 * median(RandomSearch)
