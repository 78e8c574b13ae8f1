"""Random search: its distribution, its books, and Nevergrad's as the reference."""

import numpy as np
import pytest
from scipy import stats

from llm_problem_adapters.random_search import RandomSearch
from tests.adapters.driving import run, sphere


def test_points_are_normal_about_the_start():
    search = RandomSearch().setup(dimension=2, x0=[1, -2], sigma=[0.5, 3], horizon=10, batch_size=5000, seed=4)
    points, _ = run(search, sphere, 5001, max_n=10_000)
    np.testing.assert_array_equal(points[0], [1, -2])
    for z in ((points[1:] - [1, -2]) / [0.5, 3]).T:
        assert stats.kstest(z, "norm").pvalue > 1e-3


def test_points_are_the_generator_s_clipped():
    search = RandomSearch().setup(dimension=3, bounds=(-0.5, [0.4, np.inf, 1]), horizon=9, seed=7, start_at_x0=False)
    z = np.random.default_rng(7).standard_normal((9, 3))
    expected = np.clip(z, -0.5, [0.4, np.inf, 1])
    np.testing.assert_array_equal(run(search, sphere, 9)[0], expected)


@pytest.mark.parametrize(
    ("batch_size", "max_n"), [(None, 1), (None, 1000), (1, 7), (7, 1), (7, 7), (1000, 7), (10, 1000)]
)
def test_batches_and_parts_change_nothing(batch_size, max_n):
    reference, _ = run(RandomSearch().setup(dimension=4, horizon=50, seed=1), sphere, 50)
    search = RandomSearch().setup(dimension=4, horizon=99, seed=1, batch_size=batch_size)
    np.testing.assert_array_equal(run(search, sphere, 50, max_n)[0], reference)
    other, _ = run(RandomSearch().setup(dimension=4, horizon=50, seed=2), sphere, 50)
    assert not np.array_equal(other, reference)


@pytest.mark.filterwarnings("error")
def test_the_best_told_is_recommended_and_losses_may_be_anything():
    search = RandomSearch().setup(dimension=3, horizon=40)
    run(search, lambda X: np.full(len(X), np.nan), 10)
    np.testing.assert_array_equal(search.recommend(), np.zeros(3))  # x0, while nothing finite was told
    points, losses = run(search, lambda X: np.where(X[:, 0] > 0, -np.inf, sphere(X)), 30)
    finite = np.where(np.isfinite(losses), losses, np.inf)
    np.testing.assert_array_equal(search.recommend(), points[np.argmin(finite)])


def test_as_good_as_nevergrad_s():
    """The best of 100 in 5 dimensions, medians of 41 seeds; both are draws of the same law (0.8–1.25 is
    chance)."""
    import nevergrad as ng

    ours, theirs = [], []
    for seed in range(21):
        search = RandomSearch().setup(dimension=5, horizon=100, seed=seed, start_at_x0=False)
        ours.append(run(search, sphere, 100)[1].min())
        parametrization = ng.p.Array(shape=(5,))  # standard normal about zero
        parametrization.random_state.seed(seed)
        optimizer = ng.optimizers.RandomSearch(parametrization, budget=100)
        draws = [optimizer.ask() for _ in range(100)]
        theirs.append(min(sphere(np.array([draw.value for draw in draws]))))
    assert 0.6 < np.median(ours) / np.median(theirs) < 1.6
