"""`minimize`: the exact budget, what is recommended, what is recorded, and how a run ends."""

# ruff: noqa: NPY002 (numpy's legacy generator is what has to be left alone)

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import (
    BaseOptimizer,
    GeneticAlgorithm,
    RandomSearch,
    Result,
    list_optimizers,
    make_optimizer,
    minimize,
)

BUDGETS = (1, 2, 7, 50, 53)
NAMES = [name for name in list_optimizers(gradients=False) if ":" not in name]  # our own, and pycma's


class Sphere:
    """f(x) = |x − 0.2|² from x0, with every point it was asked for kept."""

    def __init__(self, dimension: int = 4, spoilt: float | None = None) -> None:
        self.dimension = dimension
        self.x0 = np.linspace(0.5, -1.0, dimension)
        self.bounds = (np.full(dimension, -5.0), np.full(dimension, 5.0))
        self.sigma = 1.0
        self.spoilt = spoilt  # the loss of a part of the space: NaN, +inf or −inf
        self.seen: list[np.ndarray] = []

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        self.seen.extend(X.copy())
        losses = ((X - 0.2) ** 2).sum(axis=1)
        if self.spoilt is not None:
            losses[X[:, 0] > 0.5] = self.spoilt
        return losses


class Scripted:
    """An optimizer that asks for the given generations and recommends what it is told to."""

    stop_reason: str | None = None

    def __init__(self, generations, recommendations) -> None:
        self.generations, self.recommendations, self.told = list(generations), recommendations, []

    def ask(self, max_n):
        part, self.generations[0] = self.generations[0][:max_n], self.generations[0][max_n:]
        if not len(self.generations[0]):
            self.generations.pop(0)
        return np.asarray(part, dtype=float)

    def tell(self, X, F, G=None):
        self.told.append(np.array(F))
        if not self.generations:
            self.stop_reason = "end of the script"

    def recommend(self):
        return np.asarray(self.recommendations[min(len(self.told), len(self.recommendations) - 1)], dtype=float)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", NAMES)
def test_budget_is_exact_and_x0_comes_first(name, budget):
    problem = Sphere()
    result = minimize(problem, name, budget, seed=3)
    assert len(problem.seen) == result.evaluations == len(result.history) == budget
    assert np.array_equal(problem.seen[0], problem.x0)
    assert result.stop_reason == "budget"
    assert result.loss == Sphere().evaluate(result.x[None])[0]
    assert result.best_loss == result.history.loss.min() == result.history.best_loss.iloc[-1]
    assert any(np.array_equal(result.x, x) for x in problem.seen)


@pytest.mark.parametrize("name", NAMES)
def test_x0_is_not_forced(name):
    problem = Sphere()
    minimize(problem, name, 20, start_at_x0=False)
    assert not np.array_equal(problem.seen[0], problem.x0)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_and_other_seed_others(name):
    runs = [minimize(Sphere(), name, 60, seed=seed, keep_x=True) for seed in (5, 5, 6)]
    columns = ["evaluation", "batch", "loss", "best_loss", "status"]
    assert runs[0].history[columns].equals(runs[1].history[columns])
    assert np.array_equal(runs[0].X, runs[1].X)
    assert np.array_equal(runs[0].x, runs[1].x)
    assert not np.array_equal(runs[0].X, runs[2].X)


@pytest.mark.parametrize("name", NAMES)
def test_global_generator_is_untouched(name):
    np.random.seed(9)
    before = np.random.get_state()
    minimize(Sphere(), name, 40, seed=0)
    after = np.random.get_state()
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_losses_that_are_not_finite_are_recorded_and_never_best(name, spoilt):
    problem = Sphere(spoilt=spoilt)
    result = minimize(problem, name, 80, seed=1)
    raw = result.history.loss.to_numpy()
    bad = np.array([x[0] > 0.5 for x in problem.seen])
    assert bad.any()
    assert not np.isfinite(raw[bad]).any()
    assert np.isfinite(raw[~bad]).all()
    assert ((result.history.status == "non-finite") == bad).all()
    assert result.best_loss == raw[~bad].min()
    assert np.isfinite(result.loss)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "genetic-algorithm-document"])
def test_sphere_improves(name):
    result = minimize(Sphere(), name, 600, seed=2)
    assert result.loss < 0.5 * result.history.loss[0]


def test_history_does_not_depend_on_how_asks_are_cut():
    def run(cut):
        optimizer = GeneticAlgorithm(population=10, selected=3).setup(
            dimension=4, x0=Sphere().x0, bounds=(-5, 5), sigma=1.0, horizon=90, seed=4
        )
        ask = optimizer.ask
        optimizer.ask = lambda max_n: ask(min(max_n, cut))
        return minimize(Sphere(), optimizer, 90).losses

    assert np.array_equal(run(90), run(3))


def test_unseen_recommendation_gets_the_last_evaluation():
    problem = Sphere(2)
    optimizer = Scripted([[[0, 0], [1, 1]], [[2, 2], [3, 3]]], [[0.2, 0.2]])
    result = minimize(problem, optimizer, 4)
    assert [tuple(x) for x in problem.seen] == [(0, 0), (1, 1), (2, 2), (0.2, 0.2)]
    assert result.loss == 0
    assert [len(F) for F in optimizer.told] == [2, 1]


@pytest.mark.parametrize(("later", "expected"), [([3, 3], 3.0), ([9, 9], 1.0)])
def test_seen_recommendation_leaves_an_evaluation_to_the_search(later, expected):
    problem = Sphere(2)
    recommendations = [[1, 1], [1, 1], [1, 1], later]
    result = minimize(problem, Scripted([[[0, 0], [1, 1]], [[2, 2], [3, 3]]], recommendations), 4)
    assert [tuple(x) for x in problem.seen] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert tuple(result.x) == (expected, expected)


def test_optimizer_that_stops_ends_the_run_after_its_recommendation_is_evaluated():
    result = minimize(Sphere(2), Scripted([[[0, 0], [1, 1]]], [[0.2, 0.2]]), 100)
    assert (result.evaluations, result.stop_reason, result.loss) == (3, "end of the script", 0.0)


def test_non_finite_points_are_not_evaluated_and_the_penalty_is_told():
    problem = Sphere(2)
    problem.penalty = 77.0
    optimizer = Scripted([[[0, 0], [np.nan, 1], [np.inf, 0]], [[1, 1]]], [[0, 0]])
    result = minimize(problem, optimizer, 4)
    assert [tuple(x) for x in problem.seen] == [(0, 0), (1, 1)]
    assert optimizer.told[0].tolist() == [pytest.approx(0.08), 77.0, 77.0]
    assert result.history.status.tolist() == ["ok", "non-finite", "non-finite", "ok"]
    assert tuple(result.x) == (0, 0)


def test_nothing_finite_at_all():
    problem = Sphere(2)
    problem.evaluate = lambda X: np.full(len(X), np.nan)
    result = minimize(problem, "random-search", 10)
    assert (result.evaluations, result.best_loss, result.loss) == (10, np.inf, np.inf)


def test_four_ways_to_give_an_optimizer():
    problem = Sphere()
    settings = {"dimension": 4, "x0": problem.x0, "bounds": problem.bounds, "sigma": 1.0, "horizon": 30, "seed": 1}
    configured = GeneticAlgorithm(population=8, selected=2)
    runs = [
        minimize(problem, "genetic-algorithm", 30, seed=1, population=8, selected=2),
        minimize(problem, configured, 30, seed=1),
        minimize(problem, GeneticAlgorithm, 30, seed=1, population=8, selected=2),
        minimize(problem, GeneticAlgorithm(population=8, selected=2).setup(**settings), 30, seed=99),
        minimize(
            problem, lambda **given: make_optimizer("genetic-algorithm", population=8, selected=2, **given), 30, seed=1
        ),
    ]
    assert not configured.is_set_up
    assert all(np.array_equal(run.losses, runs[0].losses) for run in runs)
    assert [run.seed for run in runs] == [1] * 5


def test_horizon_and_batch_size_reach_the_optimizer():
    made = []

    def factory(**settings):
        made.append(settings)
        return RandomSearch().setup(**settings)

    result = minimize(Sphere(), factory, 20, horizon=500, batch_size=6, start_at_x0=False)
    assert (made[0]["horizon"], made[0]["batch_size"], made[0]["start_at_x0"]) == (500, 6, False)
    assert result.history.batch.value_counts(sort=False).tolist() == [6, 6, 6, 1, 1]


def test_callback_sees_every_batch_before_it_is_told():
    seen, optimizer = [], Scripted([[[0, 0], [1, 1]], [[2, 2], [3, 3]]], [[0, 0]])

    def callback(progress):
        assert len(optimizer.told) == len(seen)
        with pytest.raises(ValueError, match="read-only"):
            progress.X[0] = 0
        seen.append(progress)

    result = minimize(Sphere(2), optimizer, 4, callback=callback)
    assert [(p.evaluations, p.budget) for p in seen] == [(2, 4), (3, 4), (4, 4)]
    assert np.array_equal(np.concatenate([p.losses for p in seen]), result.losses)
    assert seen[-1].best_loss == result.best_loss
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)


def test_interruption_returns_what_there_is():
    problem = Sphere()
    evaluate = problem.evaluate

    def interrupted(X):
        if len(problem.seen) >= 20:
            raise KeyboardInterrupt
        return evaluate(X)

    problem.evaluate = interrupted
    result = minimize(problem, "random-search", 100, batch_size=5)
    assert result.stop_reason == "interrupted"
    assert result.evaluations == 21  # x0, then batches of 5
    assert result.loss == result.best_loss


def test_interruption_before_anything_was_evaluated_is_raised():
    problem = Sphere()

    def interrupted(X):
        raise KeyboardInterrupt

    problem.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        minimize(problem, "random-search", 100)


def test_an_error_in_evaluate_brings_the_evaluations_so_far():
    problem = Sphere()
    evaluate = problem.evaluate

    def failing(X):
        if len(problem.seen) > 10:
            raise OSError("the disk is full")
        return evaluate(X)

    problem.evaluate = failing
    with pytest.raises(OSError, match="the disk is full") as caught:
        minimize(problem, "random-search", 100)
    partial = caught.value.partial_result
    assert isinstance(partial, Result)
    assert len(partial.history) == 11
    assert "OSError" in partial.stop_reason


@pytest.mark.parametrize("budget", [0, -3, 2.5, True])
def test_budget_below_one_is_refused(budget):
    with pytest.raises(ValueError, match="budget must be an integer of at least 1, got"):
        minimize(Sphere(), "random-search", budget)


@pytest.mark.parametrize("batch_size", [0, 2.5, "4", True])
@pytest.mark.parametrize("name", ["simulated-annealing", "cma", "nevergrad:DE", "pymoo:DE"])
def test_a_batch_size_that_is_no_count_is_refused(name, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be an integer of at least 1, or None, got {batch_size!r}"):
        minimize(Sphere(), name, 5, batch_size=batch_size)


def test_losses_of_the_wrong_shape_are_refused():
    problem = Sphere()
    problem.evaluate = lambda X: np.zeros((len(X), 1))
    with pytest.raises(ValueError, match=r"losses of shape \(1,\), got \(1, 1\)"):
        minimize(problem, "random-search", 5)


def test_wrong_optimizers_are_refused():
    with pytest.raises(TypeError, match="optimizer must be"):
        minimize(Sphere(), 3, 5)
    with pytest.raises(TypeError, match="takes no options"):
        minimize(Sphere(), RandomSearch(), 5, population=3)
    other = RandomSearch().setup(dimension=7, horizon=5)
    with pytest.raises(ValueError, match="dimension 4"):
        minimize(Sphere(), other, 5)


def test_bookkeeping_is_light():
    result = minimize(Sphere(32), RandomSearch(), 20_000, batch_size=50)
    assert result.seconds / result.evaluations < 1e-3  # 0.02 ms where nothing else runs; 0.1 is the aim
    assert result.X is None


def test_repr_is_one_line():
    text = repr(minimize(Sphere(), "random-search", 5, seed=8))
    assert "\n" not in text
    assert "loss=" in text and "random-search" in text and "seed=8" in text


def test_base_takes_non_finite_points_back():
    class Wild(BaseOptimizer):
        def _ask(self):
            return np.full((1, self.space.dimension), np.nan)

        def _tell(self, X, F):
            pass

    result = minimize(Sphere(), Wild(), 5)
    assert result.history.status.tolist() == ["ok", "non-finite", "non-finite", "non-finite", "non-finite"]


class HalfSpace(Sphere):
    """The sphere, NaN in half the space; x0 is near the border, and the minimum on it."""

    penalty = 1e6

    def __init__(self):
        super().__init__(10)
        self.x0 = np.concatenate([[0.19], np.full(9, -0.8)])

    def evaluate(self, X):
        return np.where(X[:, 0] > 0.2, np.nan, super().evaluate(X))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "genetic-algorithm-document"])
def test_half_a_space_that_is_not_finite_does_not_stop_the_search(name):
    problem = HalfSpace()
    result = minimize(problem, name, 600, seed=1)
    losses = result.losses
    assert 20 < np.isnan(losses).sum() < 400
    assert result.best_loss < (0.9 if name == "random-search" else 0.1) * losses[0]
    if name != "random-search":  # the search itself is there in the end, not only the best point seen
        assert np.nanmedian(losses[-100:]) < 0.2 * losses[0]


def test_a_penalty_is_no_uphill_move_for_simulated_annealing():
    """Its temperature follows from the first uphill moves: at 1e6 it would accept everything to the end."""
    optimizer = make_optimizer(
        "simulated-annealing", dimension=10, x0=HalfSpace().x0, bounds=HalfSpace().bounds, sigma=1.0, horizon=300
    )
    minimize(HalfSpace(), optimizer, 300)
    assert 0 < optimizer.temperature < 1


def test_own_optimizers_are_told_what_is_not_finite_and_others_the_penalty():
    class Own(RandomSearch):
        def tell(self, X, F, G=None):
            told.extend(F)
            super().tell(X, F, G)

    told = []
    minimize(HalfSpace(), Own(), 50, seed=1)
    assert np.isnan(told).any() and 1e6 not in told
    other = Scripted([np.full((2, 10), 0.5)], [np.zeros(10)])
    minimize(HalfSpace(), other, 4)
    assert other.told[0].tolist() == [1e6, 1e6]


def test_racing_spends_the_same_budget_on_less_work(tiny_gpt2):
    words = ["one", "two", "three", "four", "five", "six", "seven"]
    text = " ".join(words[(k * k) % 7] for k in range(3000))
    task = lp.tasks.LanguageModelling.from_string(text, window=12, search_size=16, dev_size=2, test_size=2)
    problem = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1))
    raced = minimize(problem, "random-search", 25, seed=3, race=True)
    plain = minimize(problem, "random-search", 25, seed=3)
    assert raced.evaluations == plain.evaluations == 25
    censored = (raced.history.status == "censored").to_numpy()
    assert censored.any() and not (plain.history.status == "censored").any()
    assert np.isnan(raced.losses[censored]).all()
    # The points are the same, what stayed has its loss, and what was given up was worse than the best before it.
    np.testing.assert_allclose(raced.losses[~censored], plain.losses[~censored], atol=2e-6)
    before = np.minimum.accumulate(plain.losses)
    assert (plain.losses[censored] > before[censored]).all()
    assert raced.best_loss == pytest.approx(plain.best_loss, abs=2e-6)
    assert np.isfinite(raced.loss)
