"""Our optimizers in Nevergrad's registry: the same trajectories as by themselves, and Nevergrad's own checks."""

import itertools
import pickle

import nevergrad as ng
import numpy as np
import pytest
from nevergrad.optimization import test_optimizerlib as theirs
from nevergrad.optimization import test_suggest as their_suggestions

import llm_problem as lp
from llm_problem_adapters import minimize, register_with_nevergrad
from llm_problem_adapters.nevergrad_registry import ParametrizedAskTell, nevergrad_name, seed_of, standardised_bounds
from llm_problem_adapters.registry import own_optimizers

OURS = sorted(own_optimizers(gradients=False))
NAMES = register_with_nevergrad()
# Two dimensions and 300 evaluations from 0 to (0.5, −0.8), to a tenth, is asked of local and global search alike.
FAR_OFF = {"LPRandomSearch", "LPGeneticAlgorithmDocument"}


class Recorded:
    """A quadratic that remembers what it was asked."""

    def __init__(self, optimum=0.3):
        self.optimum, self.points = optimum, []

    def __call__(self, x):
        self.points.append(np.array(x))
        return float(np.sum((x - self.optimum) ** 2))


def array(d=6, seed=3):
    parametrization = ng.p.Array(init=np.zeros(d)).set_mutation(sigma=1.0)
    parametrization.set_bounds(-5.0, 5.0, full_range_sampling=False)
    parametrization.random_state.seed(seed)
    return parametrization


def test_every_gradient_free_optimizer_is_there_and_again_is_the_same_as_once():
    assert [nevergrad_name(own) for own in OURS] == NAMES == register_with_nevergrad()
    assert set(NAMES) <= set(ng.optimizers.registry)
    assert "LPGeneticAlgorithm" in NAMES


@pytest.mark.parametrize("own", OURS)
def test_the_trajectory_is_that_of_minimize_with_the_same_seed(own):
    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(11)
    optimizer = ng.optimizers.registry[nevergrad_name(own)](f.parametrization, budget=70)
    losses = []
    optimizer.register_callback("tell", lambda _, candidate, loss: losses.append(loss))
    recommendation = optimizer.minimize(f)
    result = minimize(problem, own, budget=70, seed=11)
    assert len(losses) == len(result.history) == 70
    # The last of ours may be kept for a recommendation that was never evaluated.
    same = 70 if result.loss in losses else 69
    np.testing.assert_array_equal(losses[:same], result.history["loss"][:same])
    if same == 70:
        np.testing.assert_array_equal(recommendation.args[0], result.x)


@pytest.mark.parametrize("name", NAMES)
def test_nevergrads_own_check(name):
    theirs.check_optimizer(ng.optimizers.registry[name], budget=300, verify_value=name not in FAR_OFF)


@pytest.mark.parametrize("name", NAMES)
def test_nevergrads_own_checks_of_pickles_and_suggestions(name):
    theirs.test_optim_pickle(name)
    their_suggestions.test_optimizers_suggest(name)
    instrumentation = ng.p.Array(shape=(100,)).set_bounds(0.0, 1.0)
    instrumentation.set_integer_casting()
    suggestion = np.asarray([0] * 17 + [1] * 17 + [0] * 66)
    their_suggestions.suggestion_testing(
        name, instrumentation, suggestion, 7, lambda x: 0 if np.all(np.asarray(x, dtype=int) == suggestion) else 1
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_pickled_run_goes_on_as_it_would_have(name):
    optimizer = ng.optimizers.registry[name](array(), budget=60)
    f = Recorded()
    for _ in range(17):
        candidate = optimizer.ask()
        optimizer.tell(candidate, f(candidate.value))
    again = pickle.loads(pickle.dumps(optimizer))
    for _ in range(30):
        points = [each.ask() for each in (optimizer, again)]
        np.testing.assert_array_equal(points[0].value, points[1].value)
        for each, point in zip((optimizer, again), points, strict=True):
            each.tell(point, f(point.value))


@pytest.mark.parametrize("name", NAMES)
def test_losses_may_come_in_any_order(name):
    """Eight points at a time, told backwards: the same points as one after another, but for those in between."""
    first, second = (ng.optimizers.registry[name](array(), budget=64, num_workers=8) for _ in range(2))
    points = []
    for optimizer, order in ((first, 1), (second, -1)):
        f = Recorded()
        for _ in range(8):
            candidates = [optimizer.ask() for _ in range(8)]
            for candidate in candidates[::order]:
                optimizer.tell(candidate, f(candidate.value))
        points.append({tuple(point) for point in f.points})
    assert points[0] == points[1]


@pytest.mark.parametrize("name", NAMES)
def test_no_loss_that_is_not_finite_spoils_a_run(name):
    optimizer = ng.optimizers.registry[name](array(), budget=80)
    with pytest.warns(ng.errors.LossTooLargeWarning):
        recommendation = optimizer.minimize(lambda x: float("nan") if x[0] > 0 else float(np.sum(x**2)))
    assert np.isfinite(recommendation.value).all()
    assert recommendation.value[0] <= 0


def test_a_suggestion_told_before_is_where_the_search_starts():
    f = Recorded(optimum=2.0)
    optimizer = ng.optimizers.registry["LPSimulatedAnnealing"](array(), budget=50)
    optimizer.suggest(np.full(6, 1.9))
    optimizer.minimize(f)
    np.testing.assert_array_equal(f.points[0], np.full(6, 1.9))
    assert sum(np.array_equal(point, f.points[0]) for point in f.points) == 1
    assert np.abs(f.points[1] - 1.9).max() < 5
    assert f(optimizer.recommend().value) <= f(np.full(6, 1.9))


def test_a_better_point_that_was_not_asked_for_is_recommended():
    optimizer = ng.optimizers.registry["LPParticleSwarm"](array(), budget=50)
    f = Recorded(optimum=1.0)
    for _ in range(20):
        candidate = optimizer.ask()
        optimizer.tell(candidate, f(candidate.value))
    optimizer.tell(optimizer.parametrization.spawn_child(new_value=np.ones(6)), 0.0)
    np.testing.assert_array_equal(optimizer.recommend().value, np.ones(6))


def test_options_and_equality_of_families():
    family = ParametrizedAskTell(algorithm="genetic-algorithm", options={"population": 12})
    assert family == ParametrizedAskTell(algorithm="genetic-algorithm", options={"population": 12})
    assert family != ParametrizedAskTell(algorithm="genetic-algorithm")
    assert family(3, budget=10)._ours.population == 12
    with pytest.raises(TypeError, match="has no option 'populatoin'"):
        ParametrizedAskTell(algorithm="genetic-algorithm", options={"populatoin": 12})


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_seed_of_a_fresh_generator_is_found_and_else_drawn(seed):
    assert seed_of(np.random.RandomState(seed)) == seed
    used, twin = np.random.RandomState(seed), np.random.RandomState(seed)
    used.random_sample(), twin.random_sample()
    drawn = seed_of(used)
    assert drawn == seed_of(twin) != seed
    assert seed_of(np.random.RandomState([1, 2])) == seed_of(np.random.RandomState([1, 2]))


def test_bounds_are_those_of_the_standardised_space():
    lower, upper = standardised_bounds(ng.p.Array(init=np.array([1.0, 2.0])).set_mutation(sigma=2.0).set_bounds(-1, 5))
    np.testing.assert_allclose(lower, [-1, -1.5])
    np.testing.assert_allclose(upper, [2, 1.5])
    scalar = standardised_bounds(ng.p.Scalar(init=0.0, lower=-4, upper=4))
    assert scalar[0].shape == (1,)


@pytest.mark.parametrize(
    "parametrization",
    [
        ng.p.Log(lower=1e-3, upper=1.0),
        ng.p.Array(shape=(3,)).set_bounds(-2, 2, method="arctan"),
        ng.p.Array(shape=(3,)).set_bounds(0, 7).set_integer_casting(),
        ng.p.Instrumentation(ng.p.Scalar(), lr=ng.p.Log(lower=1e-3, upper=1.0), kind=ng.p.Choice(["a", "b"])),
    ],
)
def test_other_parametrizations_are_searched_without_bounds(parametrization):
    lower, upper = standardised_bounds(parametrization)
    assert np.isinf(lower).all()
    assert np.isinf(upper).all()
    calls = itertools.count()
    for name in ("LPGeneticAlgorithm", "LPNaturalEvolutionStrategy"):
        best = ng.optimizers.registry[name](parametrization, budget=40).minimize(lambda *_, **__: float(-next(calls)))
        assert best.satisfies_constraints()
    assert next(calls) == 80


def test_cheap_constraints_are_kept():
    parametrization = array(3)
    parametrization.register_cheap_constraint(lambda x: bool(x[0] >= -0.2))
    optimizer = ng.optimizers.registry["LPDifferentialEvolution"](parametrization, budget=80)
    f = Recorded(optimum=-1.0)
    optimizer.minimize(f)
    assert min(point[0] for point in f.points) >= -0.2
    assert len(f.points) == 80
