"""What Nevergrad's benchmarks read of the function: a held-out score, and a cost in seconds."""

import time

import nevergrad as ng
import numpy as np
import pytest

import llm_problem as lp


@pytest.fixture(scope="module")
def problem():
    return lp.make("tiny-gpt2-prose-lora-xs-d32-v1")


@pytest.fixture
def splits(monkeypatch):
    """The splits that were read, in order."""
    read, right = [], lp.Problem.batch
    monkeypatch.setattr(lp.Problem, "batch", lambda self, split: read.append(split) or right(self, split))
    return read


def recommended(f, x):
    return f.parametrization.spawn_child(new_value=x)


def test_the_score_is_the_loss_on_the_dev_split_and_nothing_reads_the_test_split(problem, points, splits):
    f = problem.to_nevergrad()
    for x in points(3, problem.dimension):
        del splits[:]
        score = f.evaluation_function(recommended(f, x))
        assert set(splits) == {"dev"}
        assert type(score) is float
        assert score == problem.metrics(x, "dev")["loss"] != f(x)
    del splits[:]
    optimizer = ng.optimizers.DE(f.parametrization, budget=20)
    optimizer.minimize(f)
    assert set(splits) == {"search"}


def test_the_score_is_the_whole_objective_and_finite(tiny_gpt2, points):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    problem = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), regularisation={"drift": 0.5, "norm": 0.1})
    f = problem.to_nevergrad()
    x = points(2, problem.dimension)[1]
    metrics = problem.metrics(x, "dev")
    expected = metrics["loss"] + 0.5 * metrics["drift"] + 0.1 * metrics["norm"]
    assert f.evaluation_function(recommended(f, x)) == pytest.approx(expected, rel=1e-12)
    unbounded = ng.p.Array(init=np.full(problem.dimension, 1e300))
    assert f.evaluation_function(unbounded) == problem.penalty


def test_the_score_of_a_front_is_its_held_out_hypervolume(problem, points):
    f = problem.to_nevergrad(objectives=("loss", "norm"))
    X = points(2, problem.dimension)
    (a, _), (b, q) = F = [[problem.metrics(x, "dev")["loss"], np.mean(x * x)] for x in X]
    front = [recommended(f, x) for x in X]
    with pytest.raises(ValueError, match="set multiobjective_upper_bounds"):
        f.evaluation_function(*front)
    high, far = max(a, b) + 1, 4.0
    f.multiobjective_upper_bounds = np.array([high, far])
    union = (high - a) * far + (high - b) * (far - q) - (high - max(a, b)) * (far - q)  # the first has norm 0
    assert f.evaluation_function(*front) == pytest.approx(-union, rel=1e-12)
    assert f.evaluation_function(*front[::-1]) == pytest.approx(-union, rel=1e-12)
    f.multiobjective_upper_bounds = np.array([b - 1, q])
    assert f.evaluation_function(front[1]) == pytest.approx(1)  # above by one nat
    assert f.copy().evaluation_function(front[1]) == f.evaluation_function(front[1])
    assert F[1][1] > 0


def test_minibatches_are_of_the_search_split(problem):
    with pytest.raises(ValueError, match="leave sample out on the dev split"):
        problem.evaluate_all(problem.x0[None], sample=0, split="dev")
    with pytest.raises(ValueError, match="split"):
        problem.evaluate_all(problem.x0[None], split="training")


def test_the_cost_is_the_seconds_of_an_evaluation_measured_once(monkeypatch):
    problem = lp.make("tiny-gpt2-prose-random-d64-v1")
    calls, seconds, right = [], [], lp.Problem.evaluate_all

    def slow(self, X, *args, **options):
        calls.append(len(X))
        began = time.perf_counter()
        time.sleep(0.02)
        values = right(self, X, *args, **options)
        seconds.append(time.perf_counter() - began)
        return values

    monkeypatch.setattr(lp.Problem, "evaluate_all", slow)
    f = problem.to_nevergrad()
    cost = f.compute_pseudotime(((problem.x0,), {}), 1.0)
    assert type(cost) is float
    assert 0.02 <= min(seconds) <= cost < max(seconds) + 0.01  # of one, not of all of them
    measured = len(calls)
    assert 2 <= measured <= 10
    assert set(calls) == {1}
    again = [g.compute_pseudotime(((x,), {}), 2.0) for g in (f, f.copy()) for x in (problem.x0, problem.x0 + 1)]
    assert again == [cost] * 4
    assert len(calls) == measured
