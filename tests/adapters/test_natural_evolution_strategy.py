"""Natural evolution strategies: a generation by hand, the utilities, ties, bounds, convergence."""

import numpy as np
import pytest
from scipy.linalg import expm

from llm_problem_adapters.natural_evolution_strategy import (
    COVARIANCES,
    NaturalEvolutionStrategy,
    exponential,
    utilities,
)
from tests.adapters.driving import run, sphere


def test_utilities_by_hand():
    """λ = 4: max(0, ln 3 − ln k) for k = 1…4 is ln 3, ln 1.5, 0, 0."""
    total = np.log(3) + np.log(1.5)
    expected = np.array([np.log(3), np.log(1.5), 0, 0]) / total - 0.25
    np.testing.assert_allclose(utilities(np.array([1.0, 2, 3, 4])), expected)
    np.testing.assert_allclose(utilities(np.array([3.0, 9, 1, 2])), expected[[2, 3, 0, 1]])


def test_equal_losses_share_their_utilities():
    u = utilities(np.array([1.0, 2, 3, 4]))
    tied = utilities(np.array([5.0, 1.0, 5.0, np.inf]))
    np.testing.assert_allclose(tied, [(u[1] + u[2]) / 2, u[0], (u[1] + u[2]) / 2, u[3]])
    np.testing.assert_allclose(utilities(np.full(7, 3.0)), 0, atol=1e-16)


def test_a_separable_generation_by_hand():
    d, sigma = 3, np.array([1.0, 2.0, 0.5])
    nes = NaturalEvolutionStrategy(population=6, step=0.5, mean_rate=0.9)
    nes.setup(dimension=d, x0=0.2, sigma=sigma, horizon=100, start_at_x0=False, seed=4)
    Z = np.random.default_rng(4).standard_normal((6, d))
    X = nes.ask(10)
    np.testing.assert_allclose(X, 0.2 + 0.5 * sigma * Z)
    losses = sphere(X)
    nes.tell(X, losses)
    u = np.empty(6)
    raw = np.maximum(0, np.log(4) - np.log(np.arange(1, 7)))
    u[np.argsort(losses)] = raw / raw.sum() - 1 / 6
    mean = 0.2 + 0.9 * 0.5 * sigma * sum(u[k] * Z[k] for k in range(6))
    rate = (3 + np.log(3)) / (5 * np.sqrt(3))
    widths = 0.5 * np.exp(rate / 2 * sum(u[k] * (Z[k] ** 2 - 1) for k in range(6)))
    np.testing.assert_allclose(nes.recommend(), mean)
    np.testing.assert_allclose(nes._A, widths)


def test_a_generation_with_a_full_covariance_by_hand():
    d, sigma = 3, np.array([1.0, 2.0, 0.5])
    nes = NaturalEvolutionStrategy(covariance="full", population=6, step_rate=0.3)
    nes.setup(dimension=d, sigma=sigma, horizon=100, start_at_x0=False, seed=4)
    A = np.array([[1.0, 0.2, 0], [0, 0.8, 0.1], [0.3, 0, 0.5]])
    nes._A = A.copy()
    Z = np.random.default_rng(4).standard_normal((6, d))
    X = nes.ask(10)
    np.testing.assert_allclose(X, np.array([sigma * (A @ z) for z in Z]))
    losses = sphere(X)
    nes.tell(X, losses)
    u = utilities(losses)
    np.testing.assert_allclose(nes.recommend(), sigma * (A @ sum(u[k] * Z[k] for k in range(6))))
    M = sum(u[k] * (np.outer(Z[k], Z[k]) - np.eye(d)) for k in range(6))
    np.testing.assert_allclose(nes._A, A @ expm(0.15 * M))


def test_the_exponential_is_scipys():
    M = np.random.default_rng(0).standard_normal((7, 7))
    np.testing.assert_allclose(exponential(M + M.T), expm(M + M.T), rtol=1e-9)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_antithetic_draws_are_mirrored_at_the_mean(covariance):
    nes = NaturalEvolutionStrategy(antithetic=True, population=7, covariance=covariance)
    nes.setup(dimension=4, x0=0.3, horizon=100, start_at_x0=False)
    for _ in range(3):
        mean = nes.recommend()
        X = nes.ask(100)
        assert len(X) == 8
        np.testing.assert_allclose(X[:4] - mean, mean - X[4:], atol=1e-12)
        nes.tell(X, sphere(X))


def test_what_is_moved_onto_a_bound_counts_as_it_is():
    nes = NaturalEvolutionStrategy(population=5).setup(dimension=2, bounds=(-0.1, 0.1), horizon=99, start_at_x0=False)
    X = nes.ask(9)
    assert (np.abs(X) == 0.1).any()
    nes.tell(X, sphere(X))
    np.testing.assert_allclose(nes.recommend(), np.clip(utilities(sphere(X)) @ X, -0.1, 0.1))


def test_the_generation_is_the_batch_or_the_papers():
    assert len(NaturalEvolutionStrategy().setup(dimension=64, horizon=9, start_at_x0=False).ask(99)) == 4 + 12
    for settings, options, expected in (
        ({"batch_size": 10}, {}, 10),
        ({"batch_size": 1}, {}, 2),
        ({"batch_size": 10}, {"population": 5}, 5),
    ):
        nes = NaturalEvolutionStrategy(**options).setup(dimension=64, horizon=9, start_at_x0=False, **settings)
        assert len(nes.ask(99)) == expected


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_plateau_teaches_nothing(covariance):
    nes = NaturalEvolutionStrategy(covariance=covariance).setup(dimension=5, x0=0.3, horizon=400)
    A = nes._A.copy()
    run(nes, lambda X: np.full(len(X), 2.0), 400)
    np.testing.assert_allclose(nes.recommend(), 0.3)
    np.testing.assert_allclose(nes._A, A, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_without_bounds_it_does_not_run_away(covariance):
    """On a slope without end the widths stop at max_step, and the mean goes on evenly."""
    nes = NaturalEvolutionStrategy(covariance=covariance, max_step=2.0).setup(dimension=6, horizon=2000)
    points, _ = run(nes, lambda X: -X.sum(axis=1), 2000)
    widths = nes._A if covariance == "diagonal" else np.sqrt((nes._A**2).sum(axis=1))
    assert widths.max() <= 2 + 1e-9
    assert np.abs(points).max() < 2 * 5 * 2000 / 9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_losses_that_are_not_finite(covariance):
    nes = NaturalEvolutionStrategy(covariance=covariance, population=6).setup(dimension=3, horizon=9000)
    points, _ = run(nes, lambda X: np.full(len(X), np.nan), 6001)  # a thousand times half the step
    assert np.isfinite(points).all()
    points, _ = run(nes, sphere, 60)
    assert np.isfinite(points).all()
    nes.setup(dimension=3, horizon=900)
    points, _ = run(nes, lambda X: np.where(X[:, 0] > 0.2, np.nan, sphere(X)), 900)
    assert np.isfinite(points).all()
    assert sphere(nes.recommend()[None])[0] < 0.7  # 0.64 is the least where the losses are finite


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_finds_back_to_where_losses_are_finite(covariance):
    """Every draw of the first generations leaves the ball of radius 1 in which f is finite: d = 20, sigma 1."""
    nes = NaturalEvolutionStrategy(covariance=covariance).setup(dimension=20, horizon=2000)

    def ball(X):
        return np.where((X**2).sum(axis=1) > 1, np.inf, ((X - 0.1) ** 2).sum(axis=1))

    run(nes, ball, 2000)
    assert ball(nes.recommend()[None])[0] < 0.3 * ball(np.zeros((1, 20)))[0]


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_converges_on_a_sphere(covariance, antithetic):
    nes = NaturalEvolutionStrategy(covariance=covariance, antithetic=antithetic)
    run(nes.setup(dimension=8, horizon=4000, seed=1), sphere, 4000)
    assert sphere(nes.recommend()[None])[0] < 1e-8


def test_each_kind_converges_on_the_ellipsoid_of_its_axes():
    """A condition of 10⁴: along the coordinates for the separable one, rotated for the full one."""
    scales = 10.0 ** np.linspace(0, 4, 6)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))
    for covariance, axes in (("diagonal", np.eye(6)), ("full", rotation)):
        nes = NaturalEvolutionStrategy(covariance=covariance).setup(dimension=6, horizon=9000, seed=1)
        run(nes, lambda X, axes=axes: (scales * ((X - 1) @ axes) ** 2).sum(axis=1), 9000)
        assert np.abs(nes.recommend() - 1).max() < 1e-3


def test_too_large_for_a_full_covariance_says_so():
    with pytest.raises(MemoryError, match=r'natural-evolution-strategy keeps full .*; use covariance="diagonal"'):
        NaturalEvolutionStrategy(covariance="full").setup(dimension=10**6, horizon=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": "isotropic"}, "covariance must be one of diagonal, full; got 'isotropic'"),
        ({"population": 1}, "population must be an integer of at least 2, got 1"),
        ({"step": 0}, "step must be a finite number above 0, got 0"),
        ({"mean_rate": np.nan}, "mean_rate must be a finite number above 0, got nan"),
        ({"step_rate": -1}, "step_rate must be a finite number above 0, got -1"),
        ({"max_step": 0.5}, "max_step must be a finite number of at least 1.0, got 0.5"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        NaturalEvolutionStrategy(**options)
