"""`minimize` on constrained problems: Deb's rules, whoever searches, and what is recorded and answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import llm_problem as lp
from llm_problem_adapters import BaseOptimizer, RandomSearch, SimulatedAnnealing, list_optimizers, minimize
from llm_problem_adapters.feasibility import INFEASIBLE, behind_the_worst, finite_constraints, in_order, violations
from llm_problem_adapters.pymoo_optimizer import ALGORITHMS

OWN = [name for name in list_optimizers(gradients=False) if ":" not in name]
NEVERGRAD = ["CMA", "DE", "NGOpt", "OnePlusOne", "PSO", "Powell", "RandomSearch", "SPSA", "TBPSA", "TwoPointsDE"]
OPTUNA = ["CmaEsSampler", "NSGAIISampler", "QMCSampler", "RandomSampler", "TPESampler"]
NAMES = [
    *OWN,
    *(f"pymoo:{name}" for name in ALGORITHMS),
    *(f"nevergrad:{name}" for name in NEVERGRAD),
    *(f"optuna:{name}" for name in OPTUNA),
]


class Disc:
    """f(x) = mean (x − 2)² where mean x² ≤ 1 and x_0 ≤ 0.9; the optimum is on the border."""

    constraints = (("norm", 1.0), ("first", 0.9))
    penalty = 1e6
    sigma = 1.0

    def __init__(self, start: float = 0.0, dimension: int = 4) -> None:
        self.dimension, self.x0 = dimension, np.full(dimension, start)
        self.bounds = (np.full(dimension, -5.0), np.full(dimension, 5.0))
        self.seen: list[np.ndarray] = []

    def evaluate_all(self, X):
        self.seen.extend(X.copy())
        F = ((X - 2) ** 2).mean(axis=1, keepdims=True)
        return F, np.stack([(X**2).mean(axis=1) - 1, X[:, 0] - 0.9], axis=1), np.full(len(X), "ok")


def expected(problem, X):
    """(losses, violations) by hand."""
    return ((X - 2) ** 2).mean(axis=1), np.maximum((X**2).mean(axis=1) - 1, 0) + np.maximum(X[:, 0] - 0.9, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_is_the_best_feasible_point_and_all_is_recorded(name):
    problem = Disc()
    result = minimize(problem, name, 200, seed=1, keep_x=True)
    losses, amounts = expected(problem, result.X)
    assert result.evaluations == len(problem.seen) == 200
    np.testing.assert_allclose(result.losses, losses)
    np.testing.assert_allclose(result.violations, amounts)
    np.testing.assert_array_equal(result.history.violation, result.violations)
    assert (amounts > 0).any() or name == "nevergrad:SPSA"  # the limits were met with
    assert result.best_loss == pytest.approx(losses[amounts == 0].min())
    assert result.feasible
    for x in (result.x, result.best_x):
        assert expected(problem, x[None])[1] == 0
    best = np.minimum.accumulate(np.where(amounts == 0, losses, np.inf))
    np.testing.assert_allclose(result.history.best_loss, best)


@pytest.mark.parametrize("name", [*(n for n in OWN if n != "random-search"), "pymoo:PSO", "pymoo:CMAES"])
def test_from_an_infeasible_start_the_search_finds_what_is_feasible(name):
    result = minimize(Disc(3.0), name, 600, seed=1)
    assert result.history.violation[0] > 5
    assert result.feasible
    assert result.loss < 2.5
    assert (result.violations[-100:] == 0).mean() > 0.1


@pytest.mark.parametrize("name", [*OWN, "pymoo:DE", "nevergrad:DE"])
def test_one_seed_gives_one_run(name):
    runs = [minimize(Disc(1.5), name, 80, seed=4, keep_x=True) for _ in range(2)]
    np.testing.assert_array_equal(runs[0].X, runs[1].X)
    np.testing.assert_array_equal(runs[0].x, runs[1].x)


def test_where_nothing_is_feasible_the_least_violating_point_is_the_answer_and_says_so():
    result = minimize(Disc(4.5), "random-search", 30, seed=1, keep_x=True)
    assert (result.violations > 0).all()
    assert not result.feasible
    assert result.violation == result.violations.min()
    np.testing.assert_array_equal(result.x, result.X[np.argmin(result.violations)])
    assert result.loss == result.losses[np.argmin(result.violations)]
    assert np.isinf(result.history.best_loss).all()
    assert "feasible=False, violation=" in repr(result)


def test_without_constraints_nothing_is_said_of_them():
    class Free(Disc):
        constraints = ()

        def evaluate(self, X):
            return self.evaluate_all(X)[0][:, 0]

    result = minimize(Free(), "cma", 30)
    assert result.feasible and result.violations is None
    assert "violation" not in result.history.columns
    assert "feasible" not in repr(result)


class Spoilt(Disc):
    """Losses that are not finite in one part of the space, constraints that are not in another."""

    def evaluate_all(self, X):
        F, G, status = super().evaluate_all(X)
        F[X[:, 1] > 0.8] = -np.inf
        G[X[:, 2] > 0.8, 1] = np.nan
        return F, G, status


OTHERS = ["pymoo:DE", "pymoo:CMAES", "pymoo:PSO", "nevergrad:DE", "nevergrad:CMA", "optuna:TPESampler"]


@pytest.mark.parametrize("name", [*OWN, *OTHERS, "optuna:CmaEsSampler"])
def test_what_is_not_finite_is_recorded_and_never_the_answer(name):
    result = minimize(Spoilt(), name, 200, seed=1, keep_x=True)
    spoilt = (result.X[:, 1] > 0.8) | (result.X[:, 2] > 0.8)
    assert spoilt.any()
    np.testing.assert_array_equal(result.status == "non-finite", spoilt)
    assert np.isinf(result.violations[result.X[:, 2] > 0.8]).all()
    assert np.isfinite([result.loss, result.best_loss]).all() and result.feasible
    assert max(result.x[1:3]) <= 0.8


def test_callbacks_see_violations_and_the_best_feasible_loss():
    seen = []
    result = minimize(Disc(3.0), "particle-swarm", 120, seed=1, callback=seen.append)
    np.testing.assert_array_equal(np.concatenate([p.violations for p in seen]), result.violations)
    assert [p.best_loss for p in seen] == [result.history.best_loss[p.evaluations - 1] for p in seen]
    assert seen[0].best_loss == np.inf
    with pytest.raises(ValueError, match="read-only"):
        seen[0].violations[0] = 0


class Recorder:
    """An optimizer of another library: random points, and what it was told."""

    stop_reason: str | None = None

    def __init__(self, takes_constraints: bool) -> None:
        self.handles_constraints, self.told, self.rng = takes_constraints, [], np.random.default_rng(0)

    def ask(self, max_n):
        return self.rng.standard_normal((min(8, max_n), 4))

    def tell(self, X, F, G=None):
        self.told.append((X, F, G))

    def recommend(self):
        return np.zeros(4)


def test_another_optimizer_is_told_losses_in_the_order_of_the_rules():
    optimizer = Recorder(takes_constraints=False)
    minimize(Spoilt(), optimizer, 200)
    X, F = (np.concatenate([told[k] for told in optimizer.told]) for k in (0, 1))
    assert all(G is None for _, _, G in optimizer.told)
    assert np.isfinite(F).all()
    losses, amounts = expected(Disc(), X)
    not_finite = (X[:, 1] > 0.8) | (X[:, 2] > 0.8)
    feasible, infeasible = ~not_finite & (amounts == 0), ~not_finite & (amounts > 0)
    np.testing.assert_allclose(F[feasible], losses[feasible])
    assert F[feasible].max() < F[infeasible].min() <= F[infeasible].max() < F[not_finite].min()
    np.testing.assert_array_equal(np.argsort(F[infeasible]), np.argsort(amounts[infeasible]))
    assert F[not_finite].max() <= Disc.penalty


def test_an_optimizer_that_takes_constraints_is_told_them():
    optimizer = Recorder(takes_constraints=True)
    minimize(Spoilt(), optimizer, 50)
    X, F, G = (np.concatenate([told[k] for told in optimizer.told]) for k in range(3))
    right_F, right_G, _ = Disc().evaluate_all(X)
    finite = (X[:, 1] <= 0.8) & (X[:, 2] <= 0.8)
    np.testing.assert_allclose(F[finite], right_F[finite, 0])
    np.testing.assert_allclose(G[finite], right_G[finite])
    assert np.isfinite(G).all() and (G[~finite].max(axis=1) > 1e6).all()


def test_a_recommended_point_that_is_infeasible_gives_way():
    class Stubborn(RandomSearch):
        def _recommend(self):
            return np.full(4, 2.0)  # the optimum without constraints

    result = minimize(Disc(), Stubborn(), 60, seed=1)
    assert result.history.violation.iloc[-1] == pytest.approx(3 + 1.1)  # it was evaluated
    assert result.feasible and result.loss == result.best_loss


def test_annealing_takes_its_temperature_from_losses_alone():
    annealing = SimulatedAnnealing().setup(dimension=4, x0=1.2, bounds=(-5, 5), horizon=300)
    minimize(Disc(1.2), annealing, 300)
    assert 0 < annealing.temperature < 1


def test_the_books_of_an_optimizer_keep_the_best_feasible_point():
    optimizer = RandomSearch().setup(dimension=2, horizon=10, batch_size=4, start_at_x0=False)
    X = optimizer.ask(4)
    optimizer.tell(X, np.array([0.0, 3.0, 2.0, np.nan]), np.array([[0.5, 0], [-1, 0], [-2, -3], [-1, -1]]))
    np.testing.assert_array_equal(optimizer.recommend(), X[2])
    assert optimizer.best_loss == 2.0
    with pytest.raises(ValueError, match=r"G must have shape \(4, constraints\), got \(3, 1\)"):
        optimizer.tell(optimizer.ask(4), np.zeros(4), np.zeros((3, 1)))


def test_a_generation_told_in_parts_is_the_same_generation():
    class Told(BaseOptimizer):
        handles_constraints = True

        def _ask(self):
            return np.arange(12.0).reshape(6, 2)

        def _tell(self, X, F):
            self.told = X, F, self.G

    optimizer = Told().setup(dimension=2, horizon=10, start_at_x0=False)
    G = np.arange(6.0)[:, None] - 2
    for part in (slice(0, 4), slice(4, 6)):
        optimizer.tell(optimizer.ask(4), np.arange(6.0)[part], G[part])
    np.testing.assert_array_equal(optimizer.told[1], np.arange(6.0))
    np.testing.assert_array_equal(optimizer.told[2], G)


def test_wrong_shapes_are_refused():
    problem = Disc()
    problem.evaluate_all = lambda X: (np.zeros(len(X)), np.zeros((len(X), 2)), None)
    with pytest.raises(ValueError, match=r"F of shape \(1, 1\) and G of shape \(1, 2\), got \(1,\) and \(1, 2\)"):
        minimize(problem, "random-search", 5)


def test_racing_is_refused():
    with pytest.raises(ValueError, match="nothing can race where there are constraints"):
        minimize(Disc(), "random-search", 5, race=True)


def test_several_objectives_are_sent_to_where_they_belong(tiny_gpt2):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    problem = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), objectives=("loss", "drift"))
    with pytest.raises(ValueError, match=r"this problem has loss, drift: .*NSGA2 .*DE.*regularisation=\{'drift'"):
        minimize(problem, "cma", 10)


@pytest.mark.parametrize("name", ["genetic-algorithm", "cma", "pymoo:GA", "nevergrad:OnePlusOne"])
def test_a_model_is_moved_no_further_than_allowed(tiny_gpt2, name):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    subspace = lp.subspaces.LoRAXS(4, layers=1, scale=0.3)
    problem = lp.Problem(tiny_gpt2, task, subspace, constraints={"drift": 0.01}, regularisation={"norm": 0.01})
    result = minimize(problem, name, 120, seed=1)
    assert (result.violations > 0).any()
    assert problem.metrics(result.x)["drift"] <= 0.01
    assert result.loss == pytest.approx(problem(result.x), abs=1e-9)
    assert result.loss < problem(problem.x0)


# The rules by themselves.


finite = st.floats(-1e6, 1e6)


@given(F=arrays(np.float64, 12, elements=finite), G=arrays(np.float64, (12, 3), elements=st.floats(-3, 3)))
def test_orders_are_debs(F, G):
    G = np.round(G, 3)  # differences that count are above rounding
    amounts = violations(G)
    np.testing.assert_allclose(amounts, [sum(max(g, 0) for g in row) for row in G])
    ours = [(0, loss) if amount == 0 else (1, amount) for loss, amount in zip(F, amounts, strict=True)]
    for order in (in_order(F, amounts), in_order(F, amounts, 2e6, 3e6), behind_the_worst(F, amounts)):
        for i in range(12):
            for k in range(12):
                level = ours[i][0] == ours[k][0] == 1 and abs(ours[i][1] - ours[k][1]) < 1e-6  # but for rounding
                if ours[i] < ours[k] and not level:
                    assert order[i] < order[k]
    np.testing.assert_array_equal(in_order(F, amounts)[amounts == 0], F[amounts == 0])


def test_rules_by_hand():
    F = np.array([1.0, 4.0, 2.0, np.inf, 0.0, 3.0])
    G = np.array([[-1.0, 0], [0, 0], [0.5, 0.25], [0, 0], [np.nan, 0], [0.1, -5]])
    amounts = violations(G)
    np.testing.assert_array_equal(amounts, [0, 0, 0.75, 0, np.inf, 0.1])
    np.testing.assert_allclose(behind_the_worst(F, amounts), [1, 4, 4.75, np.inf, np.inf, 4.1])
    np.testing.assert_allclose(behind_the_worst(F[4:], amounts[4:]), [np.inf, 0.1])
    np.testing.assert_allclose(in_order(F, amounts, 9, 10), [1, 4, 10 - 1 / 1.75, np.inf, 10, 10 - 1 / 1.1])
    assert in_order(F, amounts)[2] > INFEASIBLE
    finite_G = finite_constraints(F, G)
    np.testing.assert_array_equal(finite_G[[0, 1, 2, 5]], G[[0, 1, 2, 5]])
    assert finite_G[3].min() > 1e6 and finite_G[4, 0] > 1e6
