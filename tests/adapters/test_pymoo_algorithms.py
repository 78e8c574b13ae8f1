"""Our optimizers as pymoo algorithms, and our operators inside pymoo's own."""

import numpy as np
import pytest
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import Problem
from pymoo.optimize import minimize as pymoo_minimize
from pymoo.problems import get_problem

import llm_problem as lp
from llm_problem_adapters import AskTell, GeneticAlgorithm, minimize
from llm_problem_adapters.genetic_operators import multi_point_crossover, uniform_crossover
from llm_problem_adapters.pymoo_operators import CutCrossover, ExchangeCrossover, GaussianMutation, TopSelection
from llm_problem_adapters.registry import own_optimizers

OURS = sorted(own_optimizers(gradients=False))


class Constrained(Problem):
    """‖x‖² with x_0 ≥ 1."""

    def __init__(self, n_var=4):
        super().__init__(n_var=n_var, n_obj=1, n_ieq_constr=1, xl=-5.0, xu=5.0)

    def _evaluate(self, X, out, *args, **kwargs):
        out["F"], out["G"] = np.sum(X**2, axis=1), 1.0 - X[:, 0]


@pytest.mark.parametrize("own", OURS)
def test_the_trajectory_is_that_of_minimize_with_the_same_seed(own):
    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    algorithm = AskTell(own)
    algorithm.setup(problem.to_pymoo(), termination=("n_eval", 70), seed=11)
    losses = []
    while algorithm.has_next():
        infills = algorithm.ask()
        algorithm.evaluator.eval(algorithm.problem, infills)
        algorithm.tell(infills=infills)
        losses.extend(infills.get("F")[:, 0])
    result = minimize(problem, own, budget=70, seed=11)
    assert len(losses) == len(result.history) == algorithm.evaluator.n_eval == 70
    # The last of ours may be kept for a recommendation that was never evaluated.
    same = 70 if result.loss in losses else 69
    np.testing.assert_array_equal(losses[:same], result.history["loss"][:same])
    assert algorithm.result().F[0] == min(losses)


@pytest.mark.parametrize("own", OURS)
def test_a_seed_is_a_run_and_asking_and_telling_is_minimize(own):
    problem = get_problem("rastrigin", n_var=5, A=3)
    runs = [pymoo_minimize(problem, AskTell(own, x0=1.7), ("n_eval", 130), seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].X, runs[1].X)
    assert runs[0].algorithm.evaluator.n_eval == 130
    assert not np.array_equal(runs[0].X, runs[2].X)
    algorithm = AskTell(own, x0=1.7)
    algorithm.setup(problem, termination=("n_eval", 130), seed=1)
    while algorithm.has_next():
        infills = algorithm.ask()
        F = np.array([problem.evaluate(x) for x in infills.get("X")])
        infills.set("F", F)
        algorithm.evaluator.n_eval += len(infills)
        algorithm.tell(infills=infills)
    np.testing.assert_array_equal(algorithm.result().X, runs[0].X)


@pytest.mark.parametrize("own", OURS)
def test_the_start_is_the_pretrained_model_or_the_middle_of_the_box(own):
    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1").to_pymoo()
    for face, x0, sigma in ((problem, np.zeros(32), 1.0), (Constrained(), np.zeros(4), 10 / 6)):
        algorithm = AskTell(own)
        algorithm.setup(face, termination=("n_eval", 40), seed=0)
        np.testing.assert_array_equal(algorithm.ask()[0].X, x0)
        np.testing.assert_allclose(algorithm.optimizer.space.sigma, sigma)


@pytest.mark.parametrize("own", ["genetic-algorithm", "particle-swarm", "simulated-annealing"])
def test_constraints_are_kept_to(own):
    result = pymoo_minimize(Constrained(), AskTell(own), ("n_eval", 1500), seed=0)
    assert result.G[0] <= 0
    assert result.F[0] < 1.6


def test_history_and_copies_do_not_disturb_a_run():
    problem = get_problem("sphere", n_var=3)
    algorithm = AskTell("particle-swarm")
    plain = pymoo_minimize(problem, algorithm, ("n_eval", 100), seed=3)
    kept = pymoo_minimize(problem, algorithm, ("n_eval", 100), seed=3, save_history=True)
    np.testing.assert_array_equal(plain.X, kept.X)
    assert len(kept.history) == kept.algorithm.n_iter - 1
    best = [entry.opt[0].F[0] for entry in kept.history]
    assert best == sorted(best, reverse=True)


def test_the_horizon_follows_from_the_termination():
    horizons = []
    for termination in (("n_eval", 123), ("n_gen", 7), ("time", "00:00:01"), None):
        algorithm = AskTell(GeneticAlgorithm(population=10))
        algorithm.setup(Constrained(), termination=termination, seed=0)
        horizons.append(algorithm.optimizer.horizon)
    assert horizons == [123, 70, 1000, 1000]
    algorithm = AskTell("simulated-annealing", horizon=55)
    algorithm.setup(Constrained(), termination=("n_eval", 123), seed=0)
    assert algorithm.optimizer.horizon == 55


def test_an_optimizer_that_ends_ends_the_run():
    result = pymoo_minimize(get_problem("sphere", n_var=2), AskTell("cma"), ("n_gen", 10_000), seed=1)
    assert result.algorithm.optimizer.stop_reason is not None
    assert result.F[0] < 1e-10


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one objective without equality constraints, this problem has 2 and 0"):
        AskTell("genetic-algorithm").setup(get_problem("zdt1"), termination=("n_gen", 1))
    with pytest.raises(TypeError, match="has no option 'populatoin'"):
        AskTell("genetic-algorithm", populatoin=3)
    with pytest.raises(TypeError, match="options are for an optimizer by name"):
        AskTell(GeneticAlgorithm(), population=3)


OPERATORS = {
    "cuts": {"selection": TopSelection(10), "crossover": CutCrossover(2), "mutation": GaussianMutation(0.05)},
    "exchange": {"selection": TopSelection(5), "crossover": ExchangeCrossover(0.3), "mutation": GaussianMutation(0.05)},
}


@pytest.mark.parametrize("name", OPERATORS)
def test_our_operators_work_inside_pymoos_genetic_algorithm(name):
    problem = get_problem("sphere", n_var=6)
    runs = [pymoo_minimize(problem, GA(pop_size=40, **OPERATORS[name]), ("n_gen", 60), seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0].X, runs[1].X)
    assert not np.array_equal(runs[0].X, runs[2].X)
    assert runs[0].F[0] < 0.01


def test_crossovers_are_the_operators_of_this_package():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2, 3, 8))  # pymoo's parents, matings, variables
    parents, pairs = np.concatenate(X), np.array([[0, 3], [1, 4], [2, 5]])
    for crossover, expected in (
        (CutCrossover(2), multi_point_crossover(parents, pairs, np.random.default_rng(5), cuts=2)),
        (ExchangeCrossover(0.3), uniform_crossover(parents, pairs, np.random.default_rng(5), rate=0.3)),
    ):
        found = crossover._do(None, X, random_state=np.random.default_rng(5))
        assert found.shape == (2, 3, 8)
        np.testing.assert_array_equal(found.swapaxes(0, 1).reshape(6, 8), expected)


def test_selection_takes_pairs_of_the_best_and_feasible_before_infeasible():
    problem = Constrained()
    X = np.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [3, 0, 0, 0], [0.5, 0, 0, 0]])
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.population import Population

    pop = Evaluator().eval(problem, Population.new("X", X))
    chosen = TopSelection(3)._do(problem, pop, 200, 2, random_state=np.random.default_rng(0))
    assert set(chosen.ravel()) == {1, 2, 3}  # x_0 ≥ 1 are feasible, the others come after them
    assert (chosen[:, 0] != chosen[:, 1]).all()
    wide = TopSelection(4)._do(problem, pop, 200, 2, random_state=np.random.default_rng(0))
    assert set(wide.ravel()) == {1, 2, 3, 4}  # of the infeasible ones that with the smaller violation
    with pytest.raises(ValueError, match="selects pairs"):
        TopSelection(3)._do(problem, pop, 5, 3, random_state=np.random.default_rng(0))


def test_mutation_stays_in_the_box_and_has_its_strength():
    problem = get_problem("sphere", n_var=50)  # in [0, 1]
    X = np.full((200, 50), 0.5)
    found = GaussianMutation(0.1)._do(problem, X, random_state=np.random.default_rng(0))
    assert found.std() == pytest.approx(0.1, rel=0.02)
    wide = GaussianMutation(3.0)._do(problem, X, random_state=np.random.default_rng(0))
    assert wide.min() == 0
    assert wide.max() == 1
    few = GaussianMutation(0.1, probability=0.2)._do(problem, X, random_state=np.random.default_rng(0))
    assert (few != X).mean() == pytest.approx(0.2, abs=0.01)
