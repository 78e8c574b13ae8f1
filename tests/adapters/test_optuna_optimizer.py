"""Optuna behind the protocol, every sampler of the table, against ask and tell as Optuna's tutorials have it."""

# ruff: noqa: NPY002 (numpy's legacy generator is what has to be left alone)

import inspect
import itertools
import logging
import warnings

import numpy as np
import optuna
import pytest

from llm_problem_adapters import OptunaOptimizer, list_optimizers, minimize
from llm_problem_adapters.optuna_optimizer import SAMPLERS, sampler_names

X0 = np.array([0.5, -0.3, 0.1, -1.1])
SMALL = {
    "CmaEsSampler": {"popsize": 5},
    "GPSampler": {"n_startup_trials": 4},  # a trial costs a quarter of a second
    "NSGAIISampler": {"population_size": 8},
    "NSGAIIISampler": {"population_size": 8},
    "TPESampler": {"n_startup_trials": 5},
}
QUICK = [name for name in SAMPLERS if name != "GPSampler"]


class Sphere:
    dimension, x0, sigma = 4, X0, 1.0
    bounds = (np.full(4, -5.0), np.full(4, 5.0))

    def __init__(self, spoilt=None):
        self.spoilt, self.seen = spoilt, []

    def evaluate(self, X):
        self.seen.extend(X.copy())
        losses = ((X - 0.2) ** 2).sum(axis=1)
        if self.spoilt is not None:
            losses[X[:, 0] > 0.4] = self.spoilt
        return losses


class Ring(Sphere):
    """|x − x0| is at most 1."""

    constraints = (("distance", 1.0),)

    def evaluate_all(self, X):
        G = np.linalg.norm(X - X0, axis=1, keepdims=True) - 1
        return self.evaluate(X)[:, None], G, np.full(len(X), "ok")


def small(name, **options):
    return OptunaOptimizer(name, **{**SMALL.get(name, {}), **options})


def by_hand(sampler, budget, *, batch=1, start=True, bound=5.0, f=None):
    """The points (budget, 4) of a study of Optuna's, asked for `batch` at a time once x0 was told."""
    distributions = {f"x{i}": optuna.distributions.FloatDistribution(-bound, bound) for i in range(4)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study, seen = optuna.create_study(sampler=sampler), []
        if start:
            study.enqueue_trial({f"x{i}": float(X0[i]) for i in range(4)})
        while len(seen) < budget:
            size = 1 if start and not seen else batch
            trials = [study.ask(distributions) for _ in range(size)]
            points = [[trial.params[name] for name in distributions] for trial in trials]
            for trial, loss in zip(trials, (f or Sphere().evaluate)(np.array(points)), strict=True):
                study.tell(trial, loss)
            seen += points
    return np.array(seen[:budget])


@pytest.mark.parametrize(
    ("name", "batch", "start"),
    [*itertools.product(QUICK, (1, 6), (True, False)), ("GPSampler", 1, True), ("GPSampler", 3, False)],
)
def test_equals_a_loop_written_by_hand(name, batch, start):
    budget = 7 if name == "GPSampler" else 50
    options = {"seed": 7, **SMALL.get(name, {})}
    if name == "CmaEsSampler":
        options |= {"x0": {f"x{i}": float(X0[i]) for i in range(4)}, "sigma0": 0.1}  # of the box's width
    if name == "QMCSampler":
        options["scramble"] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = getattr(optuna.samplers, name)(**options)
    theirs = by_hand(sampler, budget, batch=batch, start=start)
    ours = Sphere()
    minimize(ours, small(name), budget + 1, seed=7, batch_size=batch, start_at_x0=start)
    np.testing.assert_array_equal(ours.seen[:budget], theirs)


@pytest.mark.parametrize("budget", [1, 2, 7, 26])
@pytest.mark.parametrize("name", QUICK)
def test_budget_is_exact_and_x0_comes_first(name, budget):
    problem = Sphere()
    result = minimize(problem, small(name), budget, seed=3, batch_size=4)
    assert len(problem.seen) == result.evaluations == budget
    assert sum(np.array_equal(x, X0) for x in problem.seen) == 1
    np.testing.assert_array_equal(problem.seen[0], X0)
    problem = Sphere()
    minimize(problem, small(name), budget, start_at_x0=False)
    assert not np.array_equal(problem.seen[0], X0)


@pytest.mark.parametrize("name", QUICK)
def test_repeats_to_the_bit_inside_bounds_and_leaves_the_global_generator_alone(name):
    np.random.seed(2)
    before = np.random.get_state()
    runs = [minimize(Sphere(), small(name), 60, seed=seed, keep_x=True) for seed in (0, 0, 1, 2**32)]
    after = np.random.get_state()
    np.testing.assert_array_equal(runs[0].X, runs[1].X)
    assert not np.array_equal(runs[0].X, runs[2].X)
    assert (np.abs(runs[0].X) <= 5).all()
    assert np.array_equal(before[1], after[1]) and before[2:] == after[2:]


@pytest.mark.parametrize("name", ["CmaEsSampler", "GPSampler", "TPESampler"])
def test_models_of_the_loss_improve(name):
    budget = 12 if name == "GPSampler" else 150
    result = minimize(Sphere(), small(name), budget, seed=1)
    assert result.loss < 0.4 * result.losses[0]


@pytest.mark.parametrize(
    ("name", "spoilt"), [*itertools.product(QUICK, (np.nan, np.inf, -np.inf)), ("GPSampler", np.nan)]
)
def test_losses_that_are_not_finite_are_never_best(name, spoilt):
    problem = Sphere(spoilt)
    budget = 8 if name == "GPSampler" else 60
    result = minimize(problem, small(name), budget, seed=1)  # of which x0 is spoilt, and half of the box
    assert result.evaluations == budget
    good = [x for x in problem.seen if x[0] <= 0.4]
    assert good and len(good) < budget
    assert result.best_loss == Sphere().evaluate(np.array(good)).min()


@pytest.mark.parametrize("name", ["CmaEsSampler", "NSGAIISampler", "TPESampler"])
def test_no_finite_loss_at_all_is_no_error(name):
    class Nothing(Sphere):
        def evaluate(self, X):
            return np.full(len(X), np.nan)

    assert minimize(Nothing(), small(name), 40).best_loss == np.inf


@pytest.mark.parametrize("name", ["GPSampler", "NSGAIIISampler", "NSGAIISampler", "TPESampler"])
def test_samplers_that_know_constraints_are_told_them(name):
    optimizer = small(name).setup(dimension=4, x0=X0, bounds=(-5, 5), horizon=100, seed=1)
    for _ in range(6):
        X = optimizer.ask(100)
        F, G, _ = Ring().evaluate_all(X)
        F[X[:, 1] > 3] = np.nan
        optimizer.tell(X, F[:, 0], G)
    for trial in optimizer._study.trials:
        x = np.array([trial.params[f"x{i}"] for i in range(4)])
        (violation,) = trial.constraints.values()
        assert violation == (np.inf if x[1] > 3 else np.linalg.norm(x - X0) - 1)


@pytest.mark.parametrize("name", ["CmaEsSampler", "TPESampler"])
def test_constraints_are_kept_and_not_in_the_way(name):
    result = minimize(Ring(), small(name), 150, seed=1)
    assert (result.violations > 0).any()
    assert result.feasible
    assert result.loss < 0.9 * result.losses[0]


def test_to_cma_es_infeasible_points_are_behind_the_worst_and_ordered_by_violation():
    optimizer = small("CmaEsSampler").setup(dimension=4, x0=X0, bounds=(-5, 5), horizon=100, batch_size=4)
    X = optimizer.ask(1)
    optimizer.tell(X, np.array([3.0]), np.array([[0.5]]))
    X = optimizer.ask(4)
    optimizer.tell(X, np.array([1.0, 2.0, 1e30, np.nan]), np.array([[0.0], [0.2], [-1.0], [0.0]]))
    x0, good, slightly, large, bad = (trial.value for trial in optimizer._study.trials)
    assert good == 1.0 < large < slightly < x0 < np.inf
    assert bad >= optimizer.penalty


def test_cma_es_starts_at_x0_with_sigma():
    optimizer = OptunaOptimizer("CmaEsSampler", popsize=400)
    bounds = (np.array([-5.0, -5, -5, -9]), np.array([5.0, 5, 5, 9]))
    optimizer.setup(dimension=4, x0=X0, bounds=bounds, sigma=0.5, horizon=500, batch_size=400)
    optimizer.tell(optimizer.ask(1), np.zeros(1))
    X = optimizer.ask(400)
    # 0.5 of a width of 10; the standard error of a standard deviation of 400 normals is 3.5 %
    assert np.allclose(X.std(axis=0), [0.5 * 10 / 18] * 3 + [0.5], rtol=0.16)
    assert np.allclose(X.mean(axis=0), X0, atol=0.15)


def test_reach_narrows_the_box():
    wide = minimize(Sphere(), "optuna:RandomSampler", 200, keep_x=True).X
    near = minimize(Sphere(), "optuna:RandomSampler", 200, keep_x=True, reach=2).X
    assert 4.5 < np.abs(wide).max() <= 5
    assert 1.9 < np.abs(near - X0).max() <= 2
    for bad in (0, -1, np.nan, "2"):
        with pytest.raises(ValueError, match="reach must be a finite number above 0"):
            OptunaOptimizer("TPESampler", reach=bad)


def test_unbounded_coordinates_get_a_box():
    problem = Sphere()
    problem.bounds = None
    X = minimize(problem, "optuna:RandomSampler", 300, keep_x=True).X
    assert 9.5 < np.abs(X - X0).max() <= 10


def test_nothing_is_logged_or_warned_of_and_optuna_logs_as_before(capfd, caplog):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    optuna.logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
            warnings.simplefilter("error")
            for name in QUICK:
                minimize(Ring(), small(name), 30, batch_size=3)
        assert not [record for record in caplog.records if record.name.startswith("optuna")]
        assert capfd.readouterr() == ("", "")
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
        optuna.create_study()
        assert "A new study" in caplog.text
    finally:
        optuna.logging.disable_propagation()


def test_every_sampler_of_optuna_is_in_the_table_or_named_as_left_out():
    theirs = {name for name, each in vars(optuna.samplers).items() if inspect.isclass(each)}
    left_out = {"BaseSampler", "BaseGASampler", "BruteForceSampler", "GridSampler", "PartialFixedSampler"}
    assert theirs - left_out == set(SAMPLERS) == set(sampler_names())
    assert list_optimizers("optuna:*") == [f"optuna:{name}" for name in sorted(SAMPLERS)]


def test_too_large_for_a_full_covariance_says_so(monkeypatch):
    from llm_problem_adapters import cma_optimizer

    monkeypatch.setattr(cma_optimizer, "_memory", lambda: 2**20)
    settings = {"dimension": 400, "bounds": (-5, 5), "horizon": 10}
    with pytest.raises(MemoryError, match=r"optuna:CmaEsSampler .* use the option use_separable_cma=True"):
        OptunaOptimizer("CmaEsSampler").setup(**settings)
    OptunaOptimizer("CmaEsSampler", use_separable_cma=True).setup(**settings)
