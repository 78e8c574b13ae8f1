"""The (1+1)-ES: its rule by hand, its rate of convergence, the bounds, and Nevergrad's as the reference."""

import numpy as np
import pytest

from llm_problem_adapters.evolution_strategy import EvolutionStrategy
from tests.adapters.driving import least_of_nevergrad, run, sphere


def test_a_run_written_out():
    """The algorithm in a few lines of numpy, on the same draws."""
    d, sigma = 5, np.array([1, 2, 0.5, 1, 1])
    es = EvolutionStrategy(first_move=0.8).setup(dimension=d, sigma=sigma, horizon=100, seed=9)
    points, _ = run(es, sphere, 60)
    rng = np.random.default_rng(9)
    x, s = np.zeros(d), 0.8 / np.sqrt(d)
    loss, expected = sphere(x[None])[0], [x]
    for _ in range(59):
        candidate = x + s * sigma * rng.standard_normal(d)
        expected.append(candidate)
        success = (new := sphere(candidate[None])[0]) <= loss
        s *= np.exp((success - 0.2) / np.sqrt(d + 1))
        if success:
            x, loss = candidate, new
    np.testing.assert_allclose(points, expected, rtol=1e-12)
    np.testing.assert_allclose(es.recommend(), x)
    assert es._s == pytest.approx(s)


def test_a_success_and_four_failures_keep_the_step():
    """Kern et al.: α for a success, α^(−1/4) for a failure."""
    es = EvolutionStrategy(damping=2.0).setup(dimension=4, horizon=100)
    es.tell(es.ask(1), np.array([1.0]))
    es.tell(es.ask(1), np.array([0.5]))
    assert es._s == pytest.approx(0.5 * np.exp(0.4))
    for _ in range(4):
        es.tell(es.ask(1), np.array([0.7]))
    assert es._s == pytest.approx(0.5)


def test_the_step_stays_near_the_best_one_for_the_distance():
    """Theory, for large d: the best s on a sphere is 1.2 R/d, from far away and near."""
    es = EvolutionStrategy().setup(dimension=20, x0=50.0, horizon=6000, seed=1)
    ratios = []
    for _ in range(3000):
        X = es.ask(1)
        es.tell(X, sphere(X))
        ratios.append(es._s * 20 / np.linalg.norm(es._parent - 1))
    assert ratios[0] < 0.2
    assert 0.8 < np.median(ratios[500:]) < 2


def test_converges_log_linearly_on_the_sphere():
    """Theory: the distance falls by exp(−0.2/d) an evaluation at the best step; the rule reaches most of it."""
    d = 10
    es = EvolutionStrategy().setup(dimension=d, horizon=2000, seed=3)
    _, losses = run(es, sphere, 2000)
    rate = -0.5 * (np.log(losses.min()) - np.log(losses[0])) / 2000 * d
    assert 0.1 < rate < 0.25


def test_a_batch_is_proposed_from_one_parent_and_judged_in_order():
    es = EvolutionStrategy().setup(dimension=4, horizon=100, batch_size=4, seed=2)
    es.tell(es.ask(9), np.array([1.0]))
    X, s = es.ask(9), es._s
    assert len(X) == 4
    es.tell(X, np.array([0.9, 0.95, 0.5, 2.0]))  # three successes against the parent, the best of them stays
    np.testing.assert_array_equal(es._parent, X[2])
    assert es._s == pytest.approx(s * np.exp((3 - 4 / 5) / np.sqrt(5)))


def test_a_plateau_does_not_let_the_step_grow_for_ever():
    es = EvolutionStrategy(max_step=2.0).setup(dimension=3, bounds=(-5, 5), horizon=500)
    run(es, lambda X: np.zeros(len(X)), 200)
    assert es._s == 2.0
    assert not np.array_equal(es._parent, np.zeros(3))  # it walks, so that it may leave the plateau


@pytest.mark.filterwarnings("error")
def test_losses_that_are_not_finite():
    es = EvolutionStrategy().setup(dimension=3, horizon=300)
    points, _ = run(es, lambda X: np.full(len(X), np.nan), 30)
    assert es._s == pytest.approx(1 / np.sqrt(3))  # nothing to compare with, nothing learnt
    points, _ = run(es, lambda X: np.where(X[:, 0] > 0, np.nan, sphere(X)), 270)
    assert np.isfinite(points).all()
    assert es.recommend()[0] <= 0
    assert sphere(es.recommend()[None])[0] < 1.1  # 1 is the least where the losses are finite


def test_without_x0_the_first_offspring_with_a_loss_is_the_parent():
    es = EvolutionStrategy().setup(dimension=3, horizon=300, start_at_x0=False)
    first = es.ask(1)
    es.tell(first, np.array([1e9]))
    np.testing.assert_array_equal(es._parent, first[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_move": 0}, "first_move must be a finite number above 0, got 0"),
        ({"max_step": "1"}, "max_step must be a finite number above 0, got '1'"),
        ({"damping": -1}, "damping must be a finite number above 0, got -1"),
        ({"boundary": "wrap"}, "boundary must be one of reflect, clip; got 'wrap'"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        EvolutionStrategy(**options)


def test_as_good_as_the_one_plus_one_of_nevergrad():
    """How fast log f falls, medians of 7 seeds on 10 dimensions, a condition of 100, 500 evaluations, one start and
    scale; theirs grows by 2 and shrinks by 2^(1/4) whatever d is."""
    import nevergrad as ng

    scales = 100 ** np.linspace(0, 1, 10)

    def f(X):
        return (scales * (X - 1) ** 2).sum(axis=1)

    ours = [run(EvolutionStrategy().setup(dimension=10, horizon=500, seed=s), f, 500)[1].min() for s in range(7)]
    theirs = least_of_nevergrad(f, ng.optimizers.OnePlusOne, lambda: ng.p.Array(shape=(10,)), 500)
    start = f(np.zeros((1, 10)))[0]
    assert np.median(np.log(start / ours)) >= 0.9 * np.median(np.log(start / theirs))
