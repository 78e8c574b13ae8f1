"""SPSA: steps by hand, what the gain and its normalisation mean, the bounds, what is not finite, convergence."""

import numpy as np
import pytest

from llm_problem_adapters import SPSA
from tests.adapters.driving import run, sphere


def test_mezo_written_out():
    """x ← x − a·(f(x + cz) − f(x − cz))/(2c)·z on the same draws, with a constant gain and nothing else."""
    sigma = np.array([1.0, 0.5, 2.0])
    spsa = SPSA(gain=0.02, width=0.05, normalised=False, decay=False)
    spsa.setup(dimension=3, x0=0.3, sigma=sigma, horizon=100, start_at_x0=False, seed=6)
    points, _ = run(spsa, sphere, 40)
    rng, x = np.random.default_rng(6), np.full(3, 0.3)
    for k in range(20):
        z = sigma * rng.standard_normal(3)
        plus, minus = x + 0.05 * z, x - 0.05 * z
        np.testing.assert_allclose(points[2 * k : 2 * k + 2], [plus, minus], rtol=1e-12)
        x = x - 0.02 * (sphere(plus[None]) - sphere(minus[None]))[0] / 0.1 * z
    np.testing.assert_allclose(spsa.recommend(), x)


def test_normalised_steps_written_out():
    spsa = SPSA(gain=0.1, width=0.05, memory=0.8).setup(dimension=3, horizon=80, start_at_x0=False, seed=6)
    run(spsa, sphere, 40)
    rng, x, square = np.random.default_rng(6), np.zeros(3), 0.0
    for t in range(1, 21):
        z = rng.standard_normal(3)
        g = (sphere((x + 0.05 * z)[None]) - sphere((x - 0.05 * z)[None]))[0] / 0.1
        square = 0.8 * square + 0.2 * g**2
        gain = 0.1 * (1 - 2 * t / 80)  # what is left of the horizon
        x = x - gain * g / np.sqrt(square / (1 - 0.8**t)) * z
    np.testing.assert_allclose(spsa.recommend(), x)


def test_several_pairs_are_averaged():
    options = {"gain": 0.05, "normalised": False, "decay": False}
    spsa = SPSA(**options).setup(dimension=3, horizon=100, batch_size=7, start_at_x0=False)
    X = spsa.ask(100)
    assert len(X) == 6  # three pairs
    np.testing.assert_allclose(X[0::2], -X[1::2])
    F = sphere(X)
    spsa.tell(X, F)
    steps = [-0.05 * (F[2 * k] - F[2 * k + 1]) / 0.2 * X[2 * k] / 0.1 for k in range(3)]
    np.testing.assert_allclose(spsa.recommend(), np.mean(steps, axis=0))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_loss_does_not_matter_to_normalised_steps(scale):
    reference, _ = run(SPSA().setup(dimension=6, horizon=200), sphere, 200)
    scaled, _ = run(SPSA().setup(dimension=6, horizon=200), lambda X: scale * sphere(X), 200)
    np.testing.assert_allclose(scaled, reference, atol=1e-8)


@pytest.mark.parametrize("normalised", [False, True])
def test_steep_or_rough_losses_do_not_throw_it_away(normalised):
    """A coefficient of z is at most max_step, on a slope of any height; on noise the walk has no direction."""
    for f in (lambda X: 1e12 * X.sum(axis=1), lambda X: 1e300 * np.sign(X[:, 0])):
        spsa = SPSA(normalised=normalised, max_step=0.5).setup(dimension=5, horizon=2000)
        before = None
        for _ in range(200):
            X = spsa.ask(10)
            x = spsa.recommend()
            if before is not None:
                assert np.linalg.norm(x - before) < 0.5 * 5
            before = x
            spsa.tell(X, f(X))
    rng = np.random.default_rng(0)
    points, _ = run(SPSA(normalised=normalised).setup(dimension=30, horizon=2000), lambda X: rng.random(len(X)), 2000)
    assert np.abs(points).max() < 40


def test_on_a_bound_the_direction_is_between_the_points_as_they_are():
    spsa = SPSA(gain=0.1, width=1.0, normalised=False, decay=False)
    spsa.setup(dimension=2, x0=[1.0, 0.0], bounds=(-1, 1), horizon=100, start_at_x0=False)
    X = spsa.ask(2)
    assert 1.0 in X[:, 0]
    F = np.array([3.0, 1.0])
    spsa.tell(X, F)
    np.testing.assert_allclose(spsa.recommend(), np.clip([1.0, 0.0] - 0.1 * 1.0 * (X[0] - X[1]) / 2, -1, 1))


def test_one_loss_that_is_not_finite_gives_the_direction_away_from_it():
    spsa = SPSA(gain=0.1, width=0.1, normalised=True, decay=False).setup(dimension=3, horizon=99, start_at_x0=False)
    spsa.tell(spsa.ask(2), np.array([1.0, 1.5]))
    x, X = spsa.recommend(), spsa.ask(2)
    spsa.tell(X, np.array([np.nan, 1.0]))
    np.testing.assert_allclose(spsa.recommend(), x - 0.1 * (X[0] - X[1]) / 0.2)  # as by a difference of the usual size
    x, X = spsa.recommend(), spsa.ask(2)
    np.testing.assert_allclose(np.abs(X[0] - x), np.abs(X[1] - x))
    spsa.tell(X, np.array([1.0, np.inf]))
    np.testing.assert_allclose(spsa.recommend(), x + 0.1 * (X[0] - X[1]) / 0.1)  # a pair of half the width


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"normalised": False, "gain": 0.05}])
def test_losses_that_are_not_finite(options):
    spsa = SPSA(**options).setup(dimension=3, horizon=3000)
    points, _ = run(spsa, lambda X: np.full(len(X), np.nan), 501)
    np.testing.assert_array_equal(spsa.recommend(), np.zeros(3))
    assert 0 < np.abs(points[1:]).max() < 1
    points, _ = run(spsa, lambda X: np.where(X[:, 0] > 0.2, np.nan, sphere(X)), 2499)
    assert np.isfinite(points).all()
    assert sphere(spsa.recommend()[None])[0] < 0.8  # 0.64 is the least where the losses are finite


def test_finds_back_from_where_no_loss_is_finite():
    spsa = SPSA(width=0.3, gain=0.5).setup(dimension=4, horizon=600, start_at_x0=False)
    run(spsa, sphere, 20)
    spsa._x = np.full(4, 40.0)
    run(spsa, lambda X: np.where(np.abs(X).max(axis=1) > 2, np.nan, sphere(X)), 580)
    assert sphere(spsa.recommend()[None])[0] < 0.1


@pytest.mark.parametrize("options", [{}, {"normalised": False, "gain": 0.05}])
def test_converges_on_an_ellipsoid(options):
    """A condition of 10."""
    scales = np.linspace(0.5, 5, 6)
    spsa = SPSA(**options).setup(dimension=6, horizon=6000, seed=1)
    run(spsa, lambda X: (scales * (X - 1) ** 2).sum(axis=1), 6000)
    np.testing.assert_allclose(spsa.recommend(), 1, atol=4e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": 0}, "gain must be a finite number above 0, got 0"),
        ({"width": -1}, "width must be a finite number above 0, got -1"),
        ({"memory": 1.0}, "memory must be a finite number of at least 0 and below 1, got 1.0"),
        ({"max_step": np.nan}, "max_step must be a finite number above 0, got nan"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        SPSA(**options)
