"""Adam: torch's as the reference, its charge in `minimize`, the bounds, what is not finite, and who refuses it."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem_adapters import Adam, list_optimizers, minimize
from llm_problem_adapters.gradient import GradientOptimizer

GRADIENT = [name for name in list_optimizers() if name not in list_optimizers(gradients=False)]


class Ellipsoid:
    """f(x) = Σ s_i (x_i − 1)² with its gradient, and how often each was asked for."""

    penalty = 1e6

    def __init__(self, dimension=4, bound=5.0, sigma=1.0, start=0.0, condition=10.0):
        self.dimension, self.sigma = dimension, sigma
        self.x0 = np.full(dimension, start)
        self.bounds = (np.full(dimension, -bound), np.full(dimension, bound))
        self.scales = np.linspace(1, condition, dimension)
        self.seen, self.differentiated = [], []

    def value(self, x):
        return float((self.scales * (x - 1) ** 2).sum())

    def evaluate(self, X):
        self.seen.extend(X.copy())
        return np.array([self.value(x) for x in X])

    def value_and_grad(self, x):
        self.differentiated.append(x.copy())
        return self.value(x), 2 * self.scales * (x - 1)


@pytest.mark.parametrize("options", [{}, {"learning_rate": 0.03, "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-2}])
def test_is_the_adam_of_torch(options):
    problem = Ellipsoid()
    minimize(problem, Adam(decay=False, **options), 91)
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    scales = torch.from_numpy(problem.scales)
    theirs = torch.optim.Adam(
        [x],
        lr=options.get("learning_rate", 0.3),
        betas=(options.get("beta1", 0.9), options.get("beta2", 0.999)),
        eps=options.get("epsilon", 1e-8),
    )
    assert len(problem.differentiated) == 30
    for mine in problem.differentiated:
        np.testing.assert_allclose(mine, x.detach().numpy(), rtol=1e-9, atol=1e-12)
        theirs.zero_grad()
        (scales * (x - 1) ** 2).sum().backward()
        theirs.step()


def test_the_learning_rate_falls_as_half_a_cosine_and_is_in_units_of_sigma():
    sigma = np.array([1.0, 3.0])
    adam = Adam(learning_rate=0.2, beta1=0.0, beta2=0.0).setup(dimension=2, sigma=sigma, horizon=30)
    for k in range(10):
        x = adam.ask(30)
        adam.tell(x, np.array([1.0]), gradients=np.array([[4.0, -5.0]]))  # steps of the sign: m̂/√v̂ = ±1
        rate = 0.2 * (1 + np.cos(np.pi * 3 * (k + 1) / 30)) / 2
        np.testing.assert_allclose(adam.ask(30) - x, [[-rate, 3 * rate]], atol=1e-9)
        adam._in_hand, adam._handed_out = None, 0


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 50, 53])
def test_the_budget_is_exact_and_a_gradient_is_three_evaluations(name, budget):
    problem = Ellipsoid()
    result = minimize(problem, name, budget, seed=3, keep_x=True)
    gradients, plain = len(problem.differentiated), len(problem.seen)
    assert result.evaluations == len(result.history) == budget == 3 * gradients + plain
    assert gradients or budget < 4
    assert (result.status == "gradient").sum() == 2 * gradients
    assert result.used_gradients == (gradients > 0) == ("used_gradients=True" in repr(result))
    assert np.isnan(result.losses[result.status == "gradient"]).all()
    values = np.array([problem.value(x) for x in result.X])
    np.testing.assert_array_equal(result.losses[result.status == "ok"], values[result.status == "ok"])
    np.testing.assert_array_equal(result.X[0], problem.x0)
    assert result.losses[0] == problem.value(problem.x0)
    assert result.best_loss == result.loss == result.history.best_loss.iloc[-1] == np.nanmin(result.losses)
    assert result.loss == problem.value(result.x)
    assert result.stop_reason == "budget"


def test_another_charge_is_kept_to():
    problem = Ellipsoid()
    result = minimize(problem, "adam", 52, gradient_cost=5)
    assert len(problem.differentiated) == 10
    assert (result.status == "gradient").sum() == 40


def test_callbacks_see_the_charge():
    seen = []
    result = minimize(Ellipsoid(), "adam", 32, callback=seen.append)
    assert [p.evaluations for p in seen] == [*range(3, 31, 3), 31, 32]
    np.testing.assert_array_equal(np.concatenate([p.losses for p in seen]), result.losses)
    assert all(len(p.X) == len(p.losses) for p in seen)


def test_what_a_gradient_does_not_fit_in_goes_along_the_last_step():
    problem = Ellipsoid()
    minimize(problem, "adam", 9)  # two gradients, then three evaluations
    x, y = problem.differentiated
    assert len(problem.seen) == 3
    step = problem.seen[0] - y
    assert step.min() > 0.01 and (y - x).min() > 0.01
    np.testing.assert_allclose(problem.seen[1] - problem.seen[0], step)


@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("bound", [0.7, 5.0])
def test_converges_inside_the_bounds(name, bound):
    problem = Ellipsoid(bound=bound, sigma=np.array([1.0, 2.0, 0.5, 1.0]))
    result = minimize(problem, name, 900, seed=1, keep_x=True)
    assert np.abs(result.X).max() <= bound
    np.testing.assert_allclose(result.x, min(1.0, bound), atol=1e-3)


@pytest.mark.parametrize("name", GRADIENT)
def test_one_seed_gives_one_run(name):
    runs = [minimize(Ellipsoid(), name, 200, seed=4, keep_x=True) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].X, runs[1].X)


@pytest.mark.parametrize("name", GRADIENT)
def test_a_scale_of_the_loss_does_not_matter(name):
    class Scaled(Ellipsoid):
        def value(self, x):
            return 1e5 * super().value(x)

        def value_and_grad(self, x):
            return self.value(x), 1e5 * super().value_and_grad(x)[1]

    reference, scaled = (minimize(problem, name, 200, seed=1, keep_x=True).X for problem in (Ellipsoid(), Scaled()))
    np.testing.assert_allclose(reference, scaled, atol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", GRADIENT)
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_is_backed_away_from(name, bad, where):
    class HalfSpace(Ellipsoid):
        def value(self, x):
            return bad if where == "loss" and x[0] > 0.5 else super().value(x)

        def value_and_grad(self, x):
            loss, gradient = super().value_and_grad(x)
            if x[0] > 0.5:
                gradient[1] = bad
            return loss, gradient

    problem = HalfSpace()
    result = minimize(problem, name, 600, seed=1, keep_x=True)
    assert np.isfinite(result.X).all() and np.isfinite(result.loss)
    assert (result.X[:, 0] > 0.5).any()
    assert result.x[0] <= 0.5 or where == "gradient"
    assert result.loss < 0.5 * result.losses[0]
    assert (result.status == "non-finite").any() == (where == "loss")


@pytest.mark.parametrize("name", GRADIENT)
def test_without_a_gradient_at_the_start_it_stops(name):
    problem = Ellipsoid()
    problem.value_and_grad = lambda x: (np.nan, np.full(4, np.nan))
    result = minimize(problem, name, 100)
    assert result.evaluations < 5
    assert result.stop_reason == f"{name}: neither loss nor gradient is finite at the start"


@pytest.mark.parametrize("name", GRADIENT)
def test_problems_without_gradients_and_constrained_ones_are_refused(name):
    class Plain:
        dimension, x0, bounds, sigma = 2, np.zeros(2), None, 1.0

        def evaluate(self, X):
            return (X**2).sum(axis=1)

    with pytest.raises(TypeError, match=f"{name} takes gradients, and this problem has no value_and_grad"):
        minimize(Plain(), name, 10)
    problem = Ellipsoid()
    problem.constraints = (("norm", 1.0),)
    with pytest.raises(ValueError, match=rf"{name} follows the gradient .* list_optimizers\(gradients=False\)"):
        minimize(problem, name, 10)


def test_an_objective_without_a_gradient_is_refused(tiny_gpt2):
    task = lp.get_spec("tiny-gpt2-sentiment-lora-xs-d128-v1").task
    problem = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), objective="error")
    with pytest.raises(RuntimeError, match="gradient"):
        minimize(problem, "adam", 10)


def test_a_gradient_of_another_shape_is_refused():
    problem = Ellipsoid()
    problem.value_and_grad = lambda x: (1.0, np.ones(1))
    with pytest.raises(ValueError, match=r"value_and_grad must return a gradient of shape \(4,\), got \(1,\)"):
        minimize(problem, "adam", 10)


def test_callbacks_get_the_status_of_each_evaluation():
    seen = []
    result = minimize(Ellipsoid(), "adam", 8, callback=seen.append)
    np.testing.assert_array_equal(np.concatenate([p.status for p in seen]), result.status)
    assert list(seen[0].status) == ["ok", "gradient", "gradient"]
    with pytest.raises(ValueError, match="read-only"):
        seen[0].status[0] = "ok"


def test_what_tell_refuses_is_not_counted():
    adam = Adam().setup(dimension=2, horizon=30)
    x = adam.ask(3)
    with pytest.raises(ValueError, match="the points of the last ask"):
        adam.tell(x + 1, np.zeros(1), gradients=np.ones((1, 2)))
    assert adam.evaluations_told == 0
    adam.tell(x, np.zeros(1), gradients=np.ones((1, 2)))
    assert adam.evaluations_told == 3


def test_tell_takes_what_was_asked_for():
    adam = Adam().setup(dimension=2, horizon=30)
    x = adam.ask(3)
    assert adam.wants_gradients
    with pytest.raises(ValueError, match="adam wants gradients with the last points"):
        adam.tell(x, np.zeros(1))
    with pytest.raises(ValueError, match=r"gradients must have shape \(1, 2\), got \(2,\)"):
        adam.tell(x, np.zeros(1), gradients=np.zeros(2))
    with pytest.raises(ValueError, match="takes no constraints"):
        adam.tell(x, np.zeros(1), np.zeros((1, 1)), gradients=np.zeros((1, 2)))
    adam.tell(x, np.zeros(1), gradients=np.ones((1, 2)))
    assert adam.evaluations_told == 3
    x = adam.ask(2)
    assert not adam.wants_gradients
    with pytest.raises(ValueError, match="adam did not want gradients"):
        adam.tell(x, np.zeros(1), gradients=np.ones((1, 2)))
    adam.tell(x, np.zeros(1))
    assert adam.evaluations_told == 4
    with pytest.raises(RuntimeError, match="not started"):
        Adam().ask(3)


def test_gradients_of_a_generation_are_there_when_it_is_told():
    class Descent(GradientOptimizer):
        def _setup(self):
            self.x = self.space.x0

        def _ask(self):
            return self.x[None]

        def _tell_x0(self, loss):
            self.x = self.x - 0.05 * self.gradients[0]

        def _tell(self, X, F):
            if self.gradients is not None:
                self.x = self.x - 0.05 * self.gradients[0]

    problem = Ellipsoid()
    minimize(problem, Descent(), 31)
    x = np.zeros(4)
    for mine in problem.differentiated:
        np.testing.assert_allclose(mine, x)
        x = x - 0.05 * 2 * problem.scales * (x - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be a finite number above 0, got 0"),
        ({"beta1": 1.0}, "beta1 must be a finite number of at least 0 and below 1, got 1.0"),
        ({"beta2": -0.1}, "beta2 must be a finite number of at least 0 and below 1, got -0.1"),
        ({"epsilon": 0}, "epsilon must be a finite number above 0, got 0"),
        ({"gradient_cost": 0}, "gradient_cost must be an integer of at least 1, got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Adam(**options)
