"""pycma behind the protocol: the same as pycma's own loop, repeatable, inside bounds, and clear where it cannot."""

# ruff: noqa: NPY002 (numpy's legacy generator is what has to be left alone)

import cma
import numpy as np
import pytest

from llm_problem_adapters import CMAOptimizer, cma_optimizer

X0 = np.array([0.5, -0.3, 0.1, 0.7, -1.1])


def sphere(X):
    return ((X - 0.2) ** 2).sum(axis=1)


def set_up(optimizer=None, **changes):
    settings = {"dimension": 5, "x0": X0, "bounds": (-5, 5), "sigma": 1.0, "horizon": 500, "start_at_x0": False}
    return (optimizer or CMAOptimizer()).setup(**{**settings, **changes})


def run(optimizer, evaluations, f=sphere, cut=10**9):
    """Points (n, d) asked for and told, until the optimizer stops or `evaluations` are spent."""
    asked, n = [], 0
    while n < evaluations and optimizer.stop_reason is None:
        X = optimizer.ask(min(cut, evaluations - n))
        optimizer.tell(X, f(X))
        asked.append(X)
        n += len(X)
    return np.concatenate(asked)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("sigma", [0.5, np.array([0.1, 0.2, 0.5, 1.0, 2.0])])
def test_equals_pycmas_own_loop_fed_the_same_normals(diagonal, sigma):
    ours = run(set_up(CMAOptimizer(diagonal=diagonal, step=0.3), sigma=sigma, seed=7, batch_size=9), 90)
    generator = np.random.default_rng(7)
    options = {
        "bounds": [-5, 5],
        "popsize": 9,
        "CMA_diagonal": diagonal,
        "CMA_stds": np.broadcast_to(sigma, 5) / np.max(sigma),
        "randn": lambda *shape: generator.standard_normal(shape),
        "seed": np.nan,
        "verbose": -9,
    }
    strategy, theirs = cma.CMAEvolutionStrategy(X0, 0.3 * np.max(sigma), options), []
    for _ in range(10):
        X = strategy.ask()
        strategy.tell(X, sphere(np.array(X)).tolist())
        theirs.extend(X)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("diagonal", [False, True])
def test_recommends_the_mean(diagonal):
    optimizer = set_up(CMAOptimizer(diagonal=diagonal))
    assert np.array_equal(optimizer.recommend(), X0)
    asked = run(optimizer, 400)
    x = optimizer.recommend()
    assert not (asked == x).all(axis=1).any()
    assert sphere(x[None])[0] < 1e-3 < sphere(X0[None])[0]


def test_seed_zero_is_a_seed_and_the_global_generator_is_left_alone():
    np.random.seed(4)
    np.random.randn()  # so that a cached normal is part of the state
    before = np.random.get_state()
    runs = [run(set_up(seed=seed), 60) for seed in (0, 0, 1)]
    after = np.random.get_state()
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]


def test_parts_of_a_generation_change_nothing():
    assert np.array_equal(run(set_up(seed=2), 120), run(set_up(seed=2), 120, cut=3))


@pytest.mark.parametrize(
    "bounds", [([0.0, -1, -1, 0, -2], [1.0, 0, 1, 1, 0]), (-np.inf, 0.8), ([-2, -np.inf, -3, -4, -2], np.inf)]
)
def test_stays_inside_bounds(bounds):
    optimizer = set_up(bounds=bounds, sigma=2.0)
    asked = run(optimizer, 200, f=lambda X: -X.sum(axis=1))
    for x in [*asked, optimizer.recommend()]:
        assert (x >= bounds[0]).all() and (x <= bounds[1]).all()


def test_unbounded():
    assert sphere(run(set_up(bounds=None), 500)[-1:])[0] < 1e-4


def test_x0_is_evaluated_first_and_apart():
    with_x0, without = set_up(start_at_x0=True, seed=3), set_up(seed=3)
    first = with_x0.ask(100)
    assert np.array_equal(first, X0[None])
    with_x0.tell(first, sphere(first))
    assert np.array_equal(with_x0.ask(100), without.ask(100))


def test_its_own_stop_conditions_are_reasons():
    optimizer = set_up()
    asked = run(optimizer, 10_000)
    assert len(asked) < 10_000
    assert optimizer.stop_reason.startswith("cma: tol")
    with pytest.raises(RuntimeError, match="has stopped: cma: tol"):
        optimizer.ask(1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_repel(bad):
    optimizer = set_up()
    run(optimizer, 400, f=lambda X: np.where(X[:, 0] > 0.4, bad, sphere(X)))
    assert np.isfinite(optimizer.best_loss)
    assert sphere(optimizer.recommend()[None])[0] < 1e-2


def test_a_flat_function_ends():
    optimizer = set_up()
    assert len(run(optimizer, 5000, f=lambda X: np.ones(len(X)))) < 200
    assert optimizer.stop_reason.startswith("cma: tol")


@pytest.mark.parametrize("diagonal", [False, True])
def test_generations_without_a_finite_loss_are_not_a_flat_function(diagonal):
    optimizer = set_up(CMAOptimizer(diagonal=diagonal))
    assert len(run(optimizer, 2000, f=lambda X: np.full(len(X), np.nan))) == 2000
    assert optimizer.stop_reason is None and optimizer.best_loss == np.inf
    assert not optimizer._strategy.sent_solutions  # what is not told must not pile up


@pytest.mark.parametrize("diagonal", [False, True])
def test_finds_back_to_where_losses_are_finite(diagonal):
    """Every draw of the first generations leaves the ball of radius 1 in which f is finite: d = 40, step 1."""
    optimizer = set_up(CMAOptimizer(diagonal=diagonal, step=1), dimension=40, x0=None)

    def ball(X):
        return np.where((X**2).sum(axis=1) > 1, np.inf, ((X - 0.05) ** 2).sum(axis=1))

    run(optimizer, 600, f=ball)
    assert optimizer.best_loss < 0.5 * ball(np.zeros((1, 40)))[0]


def test_a_single_finite_loss_is_not_a_flat_function():
    optimizer = set_up(batch_size=10)
    F = np.full(10, np.nan)
    F[3] = 2.0
    X = optimizer.ask(10)
    optimizer.tell(X, F)
    assert optimizer.stop_reason is None
    assert optimizer._strategy.best.f == 2.0


def test_batch_size_is_the_population():
    assert len(set_up(batch_size=17).ask(100)) == 17
    assert len(set_up().ask(100)) == 4 + int(3 * np.log(5))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        set_up(batch_size=1)


def test_no_files_and_no_output(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    run(set_up(), 200)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_too_large_for_a_full_covariance_says_so(monkeypatch):
    monkeypatch.setattr(cma_optimizer, "_memory", lambda: 4 * 2**30)
    with pytest.raises(MemoryError, match=r'about 23.8 GiB, but this machine has 4.0 GiB; use "cma-diagonal"'):
        set_up(dimension=20_000, x0=None)
    optimizer = set_up(CMAOptimizer(diagonal=True), dimension=20_000, x0=None)
    assert optimizer.ask(2).shape == (2, 20_000)


def test_options_that_are_set_here_are_refused():
    for option in ("seed", "randn", "bounds", "verb_log"):
        with pytest.raises(TypeError, match=f"no option '{option}'"):
            CMAOptimizer(**{option: 1})
