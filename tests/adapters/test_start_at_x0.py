"""`start_at_x0` means the same at every door: the pretrained model is evaluation one of N, or is not the first."""

import inspect

import numpy as np
import pytest
from pymoo.algorithms.soo.nonconvex.de import DE
from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.optimize import minimize as pymoo_minimize

import llm_problem as lp
from llm_problem_adapters import AskTell, BaseOptimizer, list_optimizers, make_optimizer, minimize
from llm_problem_adapters.nevergrad_registry import AskTellOptimizer, ParametrizedAskTell
from llm_problem_adapters.registry import own_optimizers

N = 12
OURS = own_optimizers(gradients=False)
NEVERGRAD = ["NGOpt", "CMA", "DE", "PSO", "OnePlusOne", "TBPSA", "SPSA", "Cobyla", "ScrHammersleySearchPlusMiddlePoint"]
PYMOO = [name for name in list_optimizers("pymoo:*") if name != "pymoo:DIRECT"]
OPTUNA = ["optuna:TPESampler", "optuna:CmaEsSampler"]


@pytest.fixture(scope="module")
def problem():
    return lp.make("tiny-gpt2-prose-lora-xs-d32-v1")


@pytest.fixture
def seen(monkeypatch):
    """Every point that the model was evaluated at, in order."""
    points = []

    def recorded(right):
        return lambda self, X, *args, **options: points.extend(np.array(X)) or right(self, X, *args, **options)

    for name in ("evaluate", "evaluate_all"):
        monkeypatch.setattr(lp.Problem, name, recorded(getattr(lp.Problem, name)))
    return points


def by_minimize(problem, name, start_at_x0):
    minimize(problem, name, N, seed=3, start_at_x0=start_at_x0)


def by_nevergrads_registry(problem, name, start_at_x0):
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(3)
    ParametrizedAskTell(algorithm=name, start_at_x0=start_at_x0)(f.parametrization, budget=N).minimize(f)


def by_pymoo(problem, name, start_at_x0):
    pymoo_minimize(problem.to_pymoo(), AskTell(name, start_at_x0=start_at_x0), ("n_eval", N), seed=3)


def by_the_pymoo_face(problem, name, start_at_x0):
    pymoo_minimize(problem.to_pymoo(start_at_x0=start_at_x0), AskTell(name), ("n_eval", N), seed=3)


def with_the_sampling_of_the_face(problem, algorithm, start_at_x0):
    face = problem.to_pymoo(start_at_x0=start_at_x0)
    pymoo_minimize(face, algorithm(pop_size=N, sampling=face.sampling), ("n_gen", 1), seed=3)


DOORS = [
    *((by_minimize, name) for name in [*OURS, *(f"nevergrad:{name}" for name in NEVERGRAD), *PYMOO, *OPTUNA]),
    *((door, name) for door in (by_nevergrads_registry, by_pymoo, by_the_pymoo_face) for name in OURS),
    *((with_the_sampling_of_the_face, algorithm) for algorithm in (DE, GA, PSO)),
]


@pytest.mark.parametrize("start_at_x0", [True, False])
@pytest.mark.parametrize(
    ("door", "name"), DOORS, ids=[f"{door.__name__}-{getattr(name, '__name__', name)}" for door, name in DOORS]
)
def test_the_pretrained_model_is_evaluation_one_or_not(door, name, start_at_x0, problem, seen):
    door(problem, name, start_at_x0)
    assert len(seen) == N
    assert np.array_equal(seen[0], problem.x0) == start_at_x0


def test_direct_divides_the_box_from_its_middle_which_is_x0_here(problem, seen):
    by_minimize(problem, "pymoo:DIRECT", False)
    assert len(seen) == N
    np.testing.assert_array_equal(seen[0], problem.x0)


@pytest.mark.parametrize("start_at_x0", [True, False])
@pytest.mark.parametrize("name", OURS)
def test_the_three_faces_take_one_path(name, start_at_x0, problem, seen):
    paths = []
    for door in (by_minimize, by_nevergrads_registry, by_pymoo):
        door(problem, name, start_at_x0)
        paths.append(np.array(seen[: N - 1]))  # the last of `minimize` may be what it recommends
        del seen[:]
    for path in paths[1:]:
        np.testing.assert_array_equal(path, paths[0])


def test_it_is_on_unless_it_is_turned_off():
    for door in (minimize, make_optimizer, BaseOptimizer.setup, AskTellOptimizer, ParametrizedAskTell):
        assert inspect.signature(door).parameters["start_at_x0"].default is True
    assert lp.make("tiny-gpt2-prose-lora-xs-d32-v1").to_pymoo().start_at_x0 is True


def test_a_suggestion_that_was_told_stands_for_the_first_evaluation_either_way(problem):
    paths = []
    for start_at_x0 in (True, False):
        f = problem.to_nevergrad()
        f.parametrization.random_state.seed(3)
        family = ParametrizedAskTell(algorithm="evolution-strategy", start_at_x0=start_at_x0)
        optimizer = family(f.parametrization, budget=N)
        point = f.parametrization.spawn_child(new_value=np.full(32, 0.5))
        optimizer.tell(point, f(point.value))
        path = []
        for _ in range(4):
            candidate = optimizer.ask()
            path.append(candidate.value)
            optimizer.tell(candidate, f(candidate.value))
        paths.append(path)
    np.testing.assert_array_equal(paths[0], paths[1])
    assert 0 < np.linalg.norm(paths[0][0] - 0.5) < 5  # steps from there


def test_equality_of_families_knows_it():
    families = [ParametrizedAskTell(algorithm="spsa", start_at_x0=start) for start in (True, False, False)]
    assert families[0] != families[1] == families[2]
    assert "start_at_x0=False" in repr(families[1])
