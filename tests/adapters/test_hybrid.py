"""The hybrid: whose turn it is, where each begins, what it finds that Adam does not; and refinement."""

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import Adam, Hybrid, minimize, refine


class Waves:
    """A bowl with waves: Σ (x − 2)²/20 − cos(2πx)/4; its gradient leads into the nearest dip."""

    sigma = 1.0
    penalty = 1e6

    def __init__(self, dimension=3):
        self.dimension, self.x0 = dimension, np.zeros(dimension)
        self.bounds = (np.full(dimension, -5.0), np.full(dimension, 5.0))
        self.order = []

    def value(self, x):
        return float(((x - 2) ** 2 / 20 - np.cos(2 * np.pi * x) / 4).sum())

    def evaluate(self, X):
        self.order += ["loss"] * len(X)
        return np.array([self.value(x) for x in X])

    def value_and_grad(self, x):
        self.order += ["gradient"]
        return self.value(x), (x - 2) / 10 + np.pi / 2 * np.sin(2 * np.pi * x)


def test_turns_alternate():
    problem = Waves()
    minimize(problem, "hybrid", 100, gradient_steps=4, evaluations=9)
    turn = ["gradient"] * 4 + ["loss"] * 9
    assert problem.order == turn * 4 + ["gradient"] * 4 + ["loss"] * 4  # 84, 96 and 100 evaluations


def test_without_a_better_point_adam_goes_on_as_if_alone():
    """On a bowl whose black-box turn looks far away only, every gradient is where Adam alone would take it."""

    class Bowl(Waves):
        def value(self, x):
            return float((x**2).sum() + 1e3 * (np.abs(x).max() > 3))

        def value_and_grad(self, x):
            self.order.append(x.copy())
            return self.value(x), 2 * x

        def evaluate(self, X):
            return np.array([self.value(x) for x in X])

    problem, alone = Bowl(), Bowl()
    problem.x0 = alone.x0 = np.full(3, 0.9)
    kwargs = {"learning_rate": 0.05, "gradient_cost": 3}
    hybrid = Hybrid(gradient_steps=3, evaluations=4, scale=1e6, searcher="random-search", **kwargs)
    minimize(problem, hybrid, 120, horizon=10**9)
    minimize(alone, Adam(**kwargs), 120, horizon=10**9)
    n = len(problem.order)
    assert n > 20
    np.testing.assert_allclose(problem.order, alone.order[:n], atol=1e-6)


def test_the_black_box_turn_begins_at_the_best_point_and_adam_goes_on_from_what_it_finds():
    hybrid = Hybrid(gradient_steps=1, evaluations=2, searcher="random-search", scale=0.1)
    hybrid.setup(dimension=2, x0=3.0, bounds=(-5, 5), horizon=100)
    x0 = hybrid.ask(3)
    hybrid.tell(x0, np.array([1.0]), gradients=np.ones((1, 2)))
    first = hybrid.ask(100)
    assert not hybrid.wants_gradients
    assert np.abs(first - 3).max() < 0.5
    hybrid.tell(first, np.full(len(first), 0.5))
    second = hybrid.ask(100)
    assert np.abs(second - 3).max() < 0.5  # still about x0: random search does not move
    hybrid.tell(second, np.full(len(second), 0.2))
    third = hybrid.ask(100)
    assert hybrid.wants_gradients
    np.testing.assert_array_equal(third, second)


def test_it_finds_more_than_adam_alone():
    def losses(make):
        return [minimize(Waves(), make(), 600, seed=seed).loss for seed in range(3)]

    adam = losses(lambda: Adam(learning_rate=0.05))
    hybrid = losses(lambda: Hybrid(learning_rate=0.05, searcher="random-search", evaluations=60, scale=1.0))
    assert max(hybrid) < min(adam) - 0.1


@pytest.mark.parametrize("optimizer", ["cma", "pymoo:PSO", "nevergrad:OnePlusOne"])
def test_any_black_box_optimizer_will_do(optimizer):
    problem = Waves()
    result = minimize(problem, "hybrid", 150, seed=2, searcher=optimizer, keep_x=True)
    assert result.evaluations == 150
    assert np.abs(result.X).max() <= 5
    assert result.loss < problem.value(problem.x0)


def test_a_problem_that_the_black_box_optimizer_is_not_fit_for_is_refused_at_the_start():
    with pytest.raises(MemoryError, match="cma keeps full"):
        Hybrid(searcher="cma").setup(dimension=10**6, horizon=100)


def test_options_of_the_black_box_optimizer_arrive():
    hybrid = Hybrid(searcher="differential-evolution", searcher_options={"population": 7}, gradient_steps=1)
    hybrid.setup(dimension=2, horizon=100)
    hybrid.tell(hybrid.ask(3), np.array([1.0]), gradients=np.ones((1, 2)))
    assert len(hybrid.ask(100)) == 6  # seven, and x0 is known


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"searcher": "adam"}, ValueError, "searcher must not take gradients, as 'adam' does"),
        ({"searcher": "cmaes"}, ValueError, "there is no optimizer 'cmaes'"),
        ({"searcher_options": {"steps": 3}}, TypeError, "evolution-strategy has no option 'steps'"),
        ({"gradient_steps": 0}, ValueError, "gradient_steps must be an integer of at least 1, got 0"),
        ({"evaluations": 0}, ValueError, "evaluations must be an integer of at least 1, got 0"),
        ({"scale": 0}, ValueError, "scale must be a finite number above 0, got 0"),
    ],
)
def test_options_are_checked(options, error, message):
    with pytest.raises(error, match=message):
        Hybrid(**options)


# Refinement on an objective that has no gradient.


class Steps(Waves):
    """The same bowl in whole steps: flat almost everywhere."""

    value_and_grad = None

    def value(self, x):
        return float(np.floor(4 * ((x - 2) ** 2).sum()) / 4)


class Smooth(Waves):
    def value(self, x):
        return float(((x - 1.6) ** 2).sum())

    def value_and_grad(self, x):
        self.order += ["gradient"]
        return self.value(x), 2 * (x - 1.6)


@pytest.mark.parametrize("optimizer", ["evolution-strategy", "cma"])
def test_refinement_starts_where_the_gradient_ended(optimizer):
    smooth, problem = Smooth(), Steps()
    descended, refined = refine(smooth, problem, optimizer, 400, share=0.4, seed=1)
    assert descended.evaluations == 160
    assert refined.evaluations == 240 or refined.stop_reason.startswith("cma: tol")
    assert descended.used_gradients and not refined.used_gradients
    np.testing.assert_allclose(descended.x, 1.6, atol=1e-2)
    assert refined.losses[0] == problem.value(descended.x) == 0.25  # floor(4·0.48)/4
    assert refined.best_loss == 0.0
    assert refined.optimizer == optimizer


def test_refinement_of_a_model(tiny_gpt2):
    task = lp.get_spec("tiny-gpt2-sentiment-lora-xs-d128-v1").task
    subspace = lp.subspaces.LoRAXS(4, layers=1)
    smooth = lp.Problem(tiny_gpt2, task, subspace, objective="loss")
    problem = lp.Problem(tiny_gpt2, task, subspace, objective="error")
    descended, refined = refine(smooth, problem, "evolution-strategy", 60)
    assert descended.loss < smooth(smooth.x0)
    assert refined.best_loss <= problem(descended.x) <= problem(problem.x0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"budget": 1}, ValueError, "budget must be an integer of at least 2, got 1"),
        ({"problem": Steps(4)}, ValueError, "both problems must be of one x, got dimensions 3 and 4"),
        ({"gradient": "cma"}, ValueError, "'cma' takes no gradients"),
        ({"optimizer": "adam"}, ValueError, "'adam' takes gradients"),
        ({"share": 1.0}, ValueError, "share must be a finite number above 0 and below 1, got 1.0"),
        ({"scale": 0}, ValueError, "scale must be a finite number above 0, got 0"),
        ({"population": 3}, TypeError, "no option 'population'"),
    ],
)
def test_arguments_of_refine_are_checked(change, error, message):
    arguments = {"smooth": Smooth(), "problem": Steps(), "optimizer": "evolution-strategy", "budget": 20}
    with pytest.raises(error, match=message):
        refine(**{**arguments, **change})


def test_refine_refuses_before_it_spends_anything():
    smooth = Smooth()
    with pytest.raises(TypeError, match="no option 'population'"):
        refine(smooth, Steps(), "evolution-strategy", 20, population=3)
    assert smooth.order == []


def test_a_smooth_problem_in_a_wider_box_is_refused():
    smooth = Smooth()
    smooth.bounds = None
    with pytest.raises(ValueError, match="the bounds of `smooth` reach beyond those of `problem`"):
        refine(smooth, Steps(), "evolution-strategy", 20)


def test_what_the_first_run_leaves_is_the_second_ones():
    smooth = Smooth()
    smooth.value_and_grad = lambda x: (np.nan, np.full(3, np.nan))
    descended, refined = refine(smooth, Steps(), "evolution-strategy", 60)
    assert descended.evaluations < 5
    assert descended.evaluations + refined.evaluations == 60


def test_an_interruption_of_the_first_run_brings_what_it_found():
    smooth, gradient = Smooth(), Smooth().value_and_grad

    def interrupted(x):
        if len(smooth.order) == 5:
            raise KeyboardInterrupt
        smooth.order.append("gradient")
        return gradient(x)

    smooth.value_and_grad = interrupted
    with pytest.raises(KeyboardInterrupt) as caught:
        refine(smooth, Steps(), "evolution-strategy", 100)
    assert caught.value.partial_result.evaluations == 15


@pytest.mark.parametrize(("budget", "share", "first"), [(2, 0.5, 1), (10, 0.01, 1), (10, 0.99, 9)])
def test_each_side_has_an_evaluation(budget, share, first):
    descended, refined = refine(Smooth(), Steps(), "evolution-strategy", budget, share=share)
    assert (descended.evaluations, refined.evaluations) == (first, budget - first)
