"""The genetic algorithm: generations worked by hand, its books, its options, and pymoo's as the reference."""

import doctest

import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import genetic_operators as operators
from llm_problem_adapters import minimize
from llm_problem_adapters.genetic_algorithm import GeneticAlgorithm
from tests.adapters.driving import ScriptedGenerator, least_of_pymoo, run, sphere


def test_a_generation_by_hand():
    ga = GeneticAlgorithm(
        population=4, selected=2, crossover="single-point", mutation=0.1, final_mutation=None, elitism=0
    ).setup(dimension=3, x0=1.0, sigma=[1.0, 2.0, 1.0], bounds=(-9, 9), horizon=8, start_at_x0=False)
    ga.rng = ScriptedGenerator(
        standard_normal=[
            [[0, 0, 0], [3, 2, 5], [6, 3.5, 8], [50, 0, 0]],  # the first generation
            [1, 1, 1], [0, 0, 0], [-1, 0, 30], [0, -1, 0],  # mutations, a child each
        ],
        integers=[[0, 1], [1, 1]],  # first of a pair, offset of the second: (0, 1) and (1, 0)
        choice=[[0], [1]],  # cuts after the first and after the second gene
    )  # fmt: skip
    X = ga.ask(10)
    np.testing.assert_array_equal(X, [[1, 1, 1], [4, 5, 6], [7, 8, 9], [9, 1, 1]])  # x0 + sigma·z, inside the bounds
    ga.tell(X, np.array([3.0, 1.0, 2.0, np.nan]))  # parents: 4 5 6, then 7 8 9
    children = [
        [4 + 0.1, 8 + 0.2, 9],
        [7, 5, 6],
        [7 - 0.1, 8, 9],
        [4, 5 - 0.2, 9],
    ]  # 6 + 3 = 9; 9 + 0.1 is clipped
    np.testing.assert_allclose(ga.ask(10), children, rtol=1e-15)


def test_a_generation_from_a_parallel_generator():
    options = {
        "population": 7,
        "selected": 3,
        "crossover": "multi-point",
        "cuts": 2,
        "elitism": 2,
        "mutation_probability": 0.4,
    }
    ga = GeneticAlgorithm(**options, mutation=0.2, final_mutation=0.2).setup(dimension=5, horizon=100, seed=11)
    points, losses = run(ga, sphere, 7)  # x0 and six more
    rng = np.random.default_rng(11)
    np.testing.assert_array_equal(points, np.vstack([np.zeros(5), rng.standard_normal((6, 5))]))
    parents = points[np.argsort(losses)[:3]]
    pairs = operators.random_pairs(3, 3, rng)
    children = operators.multi_point_crossover(parents, pairs, rng, cuts=2)[:5]  # 7 less two elites
    expected = operators.gaussian_mutation(children, 0.2, rng, probability=0.4)
    np.testing.assert_array_equal(ga.ask(100), expected)


def test_elites_are_kept_and_not_asked_again():
    ga = GeneticAlgorithm(population=6, selected=2, elitism=1).setup(dimension=2, horizon=60)
    first, losses = run(ga, sphere, 6)
    best = first[np.argmin(losses)]
    second = ga.ask(100)
    assert len(second) == 5
    assert not (second == best).all(axis=1).any()
    ga.tell(second, np.full(5, 99.0))  # all worse: the elite is still the first parent
    np.testing.assert_array_equal(ga._parents[0], best)


def test_the_mutation_shrinks_to_its_end_at_the_horizon():
    ga = GeneticAlgorithm(population=2, selected=1, elitism=0, mutation=0.4, final_mutation=0.1)
    ga.setup(dimension=20_000, horizon=40)
    assert ga._mutation_std() == 0.4
    points, _losses = run(ga, lambda X: np.arange(len(X), dtype=float), 20)
    parent = points[-2]
    assert (ga.ask(2) - parent).std() == pytest.approx(0.2, rel=0.03)  # half-way: √(0.4·0.1)
    ga._in_hand = None
    ga.evaluations_told = 1000
    assert ga._mutation_std() == pytest.approx(0.1)


def test_document_draws_individuals_themselves_and_keeps_no_elite():
    theta0 = np.full(4000, 5.0)
    ga = GeneticAlgorithm.document(theta0=theta0).setup(dimension=4000, sigma=3.0, horizon=5000)
    x0, _ = run(ga, sphere, 1)
    np.testing.assert_array_equal(x0, np.zeros((1, 4000)))
    first, losses = run(ga, sphere, 50)  # x0 is no member of it
    assert len(ga._parents) == 10
    theta = first + theta0
    assert theta.mean() == pytest.approx(0, abs=0.02)
    assert theta.std() == pytest.approx(1, abs=0.02)
    second = ga.ask(100)
    assert len(second) == 50
    parents = first[np.argsort(losses)[:10]]
    nearest = np.abs(second[:, None, :] - parents).min(axis=1)  # (50, d): to the parent the gene came from
    assert nearest.max() < 0.06
    assert nearest.std() > 1e-3


def test_document_recommends_the_best_of_the_last_generation_by_its_own_losses():
    ga = GeneticAlgorithm.document(population=5, selected=2).setup(dimension=3, horizon=100)
    run(ga, lambda X: np.zeros(len(X)), 6)  # the best ever told
    second = ga.ask(5)
    ga.tell(second, np.array([4.0, 3.0, 1.0, 2.0, np.nan]))
    np.testing.assert_array_equal(ga.recommend(), second[2])
    part = ga.ask(2)
    ga.tell(part, np.zeros(2))  # a generation that is not complete changes nothing
    np.testing.assert_array_equal(ga.recommend(), second[2])


def test_default_recommends_the_best_told_and_document_does_so_without_a_finite_last_generation():
    for ga in (
        GeneticAlgorithm(population=5, selected=2),
        GeneticAlgorithm.document(population=5, selected=2),
    ):
        ga.setup(dimension=3, horizon=100)
        np.testing.assert_array_equal(ga.recommend(), np.zeros(3))
        points, losses = run(ga, sphere, 5 if ga.with_x0 else 6)
        X = ga.ask(5)
        ga.tell(X, np.full(len(X), np.inf))
        np.testing.assert_array_equal(ga.recommend(), points[np.argmin(losses)])


def test_document_is_the_options_of_the_article():
    ga = GeneticAlgorithm.document()
    assert (ga.population, ga.selected, ga.crossover, ga.elitism) == (50, 10, "single-point", 0)
    assert (ga.mutation, ga.final_mutation, ga.mutation_probability, ga.initial) == (0.01, 0.01, 1.0, 1.0)
    assert not ga.is_set_up
    ga.setup(dimension=3, horizon=100)
    run(ga, lambda X: np.where(np.abs(X).max(axis=1) > 1.5, -1.0, 1.0), 51)
    assert np.abs(ga.ask(50)).max() > 1.5  # no bounds, no clipping
    ga.setup(dimension=3, bounds=(-0.5, 0.5), horizon=100)
    points, _ = run(ga, sphere, 200)
    assert np.abs(points).max() == 0.5


def test_selecting_one_parent_of_one_gene():
    ga = GeneticAlgorithm(population=3, selected=1, crossover="single-point").setup(dimension=1, horizon=30)
    assert len(run(ga, sphere, 30)[0]) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, "population must be an integer of at least 2, got 1"),
        ({"population": 9, "selected": 10}, "selected must be an integer from 1 to 9, got 10"),
        ({"selected": 2.5}, "selected must be an integer from 1 to 50, got 2.5"),
        ({"crossover": "two-point"}, "single-point, multi-point, uniform; got 'two-point'"),
        ({"cuts": 0}, "cuts must be an integer of at least 1, got 0"),
        ({"mutation": -1}, "mutation must be a finite number of at least 0, got -1"),
        ({"mutation": np.nan}, "mutation must be a finite number of at least 0, got nan"),
        (
            {"mutation_probability": "all"},
            "mutation_probability must be a finite number from 0 to 1, got 'all'",
        ),
        ({"elitism": 50}, "elitism must be an integer from 0 to 49, got 50"),
        ({"answer": "first"}, "answer must be one of best, last-generation; got 'first'"),
        ({"theta0": [1.0]}, "theta0 is the raw full vector's"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        GeneticAlgorithm(**options)


def test_the_documents_recipe_runs_as_it_stands_in_the_docstring():
    (first, second) = doctest.DocTestParser().get_examples(GeneticAlgorithm.document.__doc__)
    names = {
        "lp": lp,
        "task": lp.get_spec("tiny-gpt2-prose-full-d334464-v1").task,
        "GeneticAlgorithm": GeneticAlgorithm,
        "minimize": lambda problem, optimizer, budget: minimize(problem, optimizer, 4, keep_x=True),
    }
    exec(first.source + second.source, names)
    problem, result = names["problem"], names["result"]
    theta0 = problem.subspace.theta0().numpy()
    assert result.evaluations == 4 and result.losses[0] == problem(problem.x0)
    theta = result.X[1:-1] + theta0  # θ ~ N(0, I), and hardly any of it on the bounds
    assert theta.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(result.X) == 5) < 1e-3
    weights = np.concatenate([p.detach().numpy().ravel() for p in problem.model.parameters()])
    np.testing.assert_allclose(theta0, weights)


def test_a_theta0_outside_the_bounds_is_refused():
    """As it is in the full vector's default unit, a twentieth of the weights' root mean square."""
    problem = lp.make("tiny-gpt2-prose-full-d334464-v1")
    with pytest.raises(ValueError, match=r"outside the bounds, .* FullVector\(scale=1.0\)$"):
        minimize(problem, GeneticAlgorithm.document(theta0=problem.subspace.theta0()), 3)


def test_theta0_has_the_dimension():
    with pytest.raises(ValueError, match=r"theta0 must have shape \(3,\), got \(2,\)"):
        GeneticAlgorithm.document(theta0=[1.0, 2.0]).setup(dimension=3, horizon=100)


# Against the twin.


def shifted_sphere(X):
    return ((X - 1.3) ** 2).sum(axis=1)


def rosenbrock(X):
    return (100 * (X[:, 1:] - X[:, :-1] ** 2) ** 2 + (1 - X[:, :-1]) ** 2).sum(axis=1)


ROTATION, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))


def rotated_rastrigin(X):
    """Not separable, as a language model's loss is not: an algorithm that moves single coordinates has no
    gift."""
    Z = (X - 1.3) @ ROTATION
    return (Z**2 + 10 * (1 - np.cos(2 * np.pi * Z))).sum(axis=1)


@pytest.mark.parametrize("f", [shifted_sphere, rosenbrock, rotated_rastrigin])
def test_as_good_as_the_genetic_algorithm_of_pymoo(f):
    """Medians of 7 seeds on 10 dimensions, 600 evaluations, the same population, start and box: ours at
    most 1.5 times theirs."""
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.operators.crossover.ux import UX
    from pymoo.operators.mutation.gauss import GaussianMutation

    def twin(sampling):
        mutation = GaussianMutation(sigma=0.03, prob_var=1.0)  # of the box's width: our mean std, 0.05–0.5 of sigma = 1
        return GA(pop_size=20, sampling=sampling, crossover=UX(), mutation=mutation)

    ours = []
    for seed in range(7):
        ga = GeneticAlgorithm(population=20, selected=4)
        ga.setup(dimension=10, bounds=(-5, 5), horizon=600, seed=seed, start_at_x0=False)
        ours.append(run(ga, f, 600)[1].min())
    assert np.median(ours) <= 1.5 * np.median(least_of_pymoo(f, 10, twin, 600))


def test_beats_random_search():
    from llm_problem_adapters.random_search import RandomSearch

    def median(make):
        return np.median([
            run(make().setup(dimension=20, horizon=500, seed=seed), sphere, 500)[1].min() for seed in range(7)
        ])  # fmt: skip

    assert median(GeneticAlgorithm) < 0.2 * median(RandomSearch)
    assert median(GeneticAlgorithm.document) < 0.8 * median(RandomSearch)
