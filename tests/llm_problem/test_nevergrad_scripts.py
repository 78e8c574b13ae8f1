"""Each script of Nevergrad's page on optimization, with only the function replaced, does on it what the page says."""

import copy
import json
import logging
import math
import multiprocessing
import pickle
from concurrent import futures

import nevergrad as ng
import numpy as np
import pytest

import llm_problem as lp
from llm_problem_adapters import minimize

NAME = "tiny-gpt2-prose-lora-xs-d32-v1"
OPTIMIZERS = ["NGOpt", "NgIohTuned", "CMA", "DE", "TwoPointsDE", "PSO", "OnePlusOne", "TBPSA"]


@pytest.fixture(scope="module")
def problem():
    return lp.make(NAME)


@pytest.fixture
def square(problem):
    """The function of the page."""
    f = problem.to_nevergrad()
    f.parametrization.random_state.seed(7)
    return f


@pytest.fixture(scope="module")
def overflowing(small_pair, label_task):
    """A problem whose activations overflow where x is not small: half of N(0, I) has no loss."""
    return lp.Problem(small_pair("gpt2"), label_task, lp.subspaces.LoRAXS(2, layers=2, scale=1.5e19))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_item_1_optimizers_get_python_floats_and_x0_is_preserved(name, problem, square):
    values = []
    optimizer = ng.optimizers.registry[name](square.parametrization, budget=40)
    optimizer.suggest(problem.x0)
    recommendation = optimizer.minimize(lambda x: values.append((x.copy(), square(x))) or values[-1][1])
    assert len(values) == 40
    assert {type(loss) for _, loss in values} == {float}
    np.testing.assert_array_equal(values[0][0], problem.x0)
    np.testing.assert_array_equal(square.parametrization.value, np.zeros(32))
    np.testing.assert_array_equal(problem.x0, np.zeros(32))
    assert all(loss == problem(x) for x, loss in values[::13])
    assert recommendation.value.shape == (32,)
    if name not in ("CMA", "TBPSA", "NgIohTuned"):  # they recommend a mean, or what a model says
        assert square(recommendation.value) <= values[0][1]


def test_item_2_minimize(square):
    optimizer = ng.optimizers.NGOpt(parametrization=square.parametrization, budget=30)
    recommendation = optimizer.minimize(square)
    assert optimizer.num_tell == 30
    assert np.isfinite(square(*recommendation.args, **recommendation.kwargs))


@pytest.mark.parametrize(
    "parametrization",
    [
        pytest.param(lambda: 32, id="a dimension"),
        pytest.param(lambda: ng.p.Array(shape=(32,)), id="array"),
        pytest.param(lambda: ng.p.Instrumentation(ng.p.Array(shape=(32,)).set_bounds(-12, 12)), id="instrumentation"),
    ],
)
def test_item_2_a_parametrization_of_the_scripts_own(parametrization, problem):
    """`parametrization=2` in the page's scripts is 32 here."""
    square, asked = problem.to_nevergrad(), []
    optimizer = ng.optimizers.NGOpt(parametrization=parametrization(), budget=30)
    optimizer.register_callback("tell", lambda _, candidate, loss: asked.append((candidate.args[0], loss)))
    recommendation = optimizer.minimize(square)
    assert len(asked) == 30
    assert all(loss == problem(x) for x, loss in asked[::7])
    assert square(*recommendation.args, **recommendation.kwargs) <= max(loss for _, loss in asked)


@pytest.mark.parametrize("batch_mode", [True, False])
def test_item_2_threads(square, batch_mode):
    optimizer = ng.optimizers.TwoPointsDE(parametrization=square.parametrization, budget=30, num_workers=5)
    told = []
    optimizer.register_callback("tell", lambda _, candidate, loss: told.append((candidate.value.copy(), loss)))
    with futures.ThreadPoolExecutor(max_workers=optimizer.num_workers) as executor:
        optimizer.minimize(square, executor=executor, batch_mode=batch_mode)
    assert [loss for _, loss in told] == [square(x) for x, _ in told]


@pytest.fixture(scope="module")
def another_process():
    """A process that counts its models: it has none yet."""
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=count_models) as executor:
        yield executor


MODELS = []


def count_models():
    import torch
    from transformers import PreTrainedModel

    torch.set_num_threads(1)
    right = PreTrainedModel.from_pretrained.__func__
    PreTrainedModel.from_pretrained = classmethod(lambda cls, *a, **k: MODELS.append(1) or right(cls, *a, **k))


def models_of_a_hundred(data):
    """Models loaded so far, after a hundred of everything; and how many problems came of it."""
    pickled = [pickle.loads(data) for _ in range(100)]
    copies = [f for each in pickled for f in (each, each.copy(), copy.deepcopy(each), pickle.loads(pickle.dumps(each)))]
    return len(MODELS), len({id(f.problem) for f in copies}), {f(f.problem.x0) for f in copies[:8]}


def test_item_2_processes(square, another_process):
    optimizer = ng.optimizers.DE(parametrization=square.parametrization, budget=24, num_workers=2)
    told = []
    optimizer.register_callback("tell", lambda _, candidate, loss: told.append((candidate.value.copy(), loss)))
    optimizer.minimize(square, executor=another_process, batch_mode=True)
    assert [loss for _, loss in told] == [square(x) for x, _ in told]


def test_item_3_a_hundred_copies_in_another_process_are_one_model_load(square, another_process):
    found = another_process.submit(models_of_a_hundred, pickle.dumps(square)).result()
    assert found == (1, 1, {square(square.problem.x0)})


def test_item_2_ask_and_tell(square):
    optimizer = ng.optimizers.OnePlusOne(parametrization=square.parametrization, budget=30)
    for _ in range(optimizer.budget):
        x = optimizer.ask()
        loss = square(*x.args, **x.kwargs)
        optimizer.tell(x, loss)
    recommendation = optimizer.provide_recommendation()
    assert square(recommendation.value) <= square(square.problem.x0)


def test_item_2_suggesting_and_telling_points_not_asked(square, points):
    optimizer = ng.optimizers.OnePlusOne(parametrization=square.parametrization, budget=30)
    x = points(2, 32)[1]
    optimizer.suggest(list(x))
    candidate = optimizer.ask()
    np.testing.assert_array_equal(candidate.value, x)
    optimizer.tell(candidate, square(candidate.value))
    other = optimizer.parametrization.spawn_child(new_value=np.full(32, 0.5))
    optimizer.tell(other, square(other.value))
    assert optimizer.num_tell == 2
    best = min((candidate, other), key=lambda point: square(point.value))
    np.testing.assert_array_equal(optimizer.provide_recommendation().value, best.value)


def test_item_2_callbacks(square, tmp_path, caplog):
    optimizer = ng.optimizers.OnePlusOne(parametrization=square.parametrization, budget=200)
    logger = ng.callbacks.ParametersLogger(tmp_path / "log.json")
    optimizer.register_callback("tell", logger)
    optimizer.register_callback("ask", ng.callbacks.EarlyStopping.no_improvement_stopper(5))
    optimizer.register_callback("ask", ng.callbacks.EarlyStopping(lambda o: o.num_ask > 50))
    optimizer.register_callback("ask", ng.callbacks.EarlyStopping.timer(600))
    ours = logging.getLogger("of the script")
    ours.setLevel(logging.INFO)
    optimizer.register_callback("tell", ng.callbacks.OptimizationLogger(logger=ours))
    seen = []
    optimizer.register_callback("tell", lambda optimizer, candidate, value: seen.append(value))
    optimizer.minimize(square)
    assert 6 <= len(seen) <= 51
    lines = [json.loads(line) for line in (tmp_path / "log.json").read_text().splitlines()]
    assert [line["#loss"] for line in lines] == seen
    assert len(logger.load_flattened()) == len(seen)
    assert any("recommendation is" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "constraint", [lambda x: bool(x[0] >= -0.1), lambda x: float(x[0] + 0.1)], ids=["bool", "float"]
)
def test_item_2_cheap_constraints(constraint, square):
    square.parametrization.register_cheap_constraint(constraint)
    optimizer = ng.optimizers.OnePlusOne(square.parametrization, budget=40)
    asked = []
    optimizer.minimize(lambda x: asked.append(x.copy()) or square(x))
    assert min(x[0] for x in asked) >= -0.1
    assert square.copy().parametrization.has_constraints == square.parametrization.has_constraints


def test_item_2_constraint_violations(tiny_gpt2):
    task = lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=2, dev_size=2, test_size=2)
    f = lp.Problem(tiny_gpt2, task, lp.subspaces.LoRAXS(4, layers=1), constraints={"norm": 0.5}).to_nevergrad()
    f.parametrization.random_state.seed(1)
    optimizer = ng.optimizers.OnePlusOne(f.parametrization, budget=40)
    for _ in range(optimizer.budget):
        x = optimizer.ask()
        optimizer.tell(x, f(x.value), [violation(x.value) for violation in f.constraint_violations])
    assert f.constraint_violations[0](optimizer.recommend().value) <= 0


def test_item_2_chaining(square):
    chained = ng.optimizers.Chaining([ng.optimizers.LHSSearch, ng.optimizers.DE], [15])
    optimizer = chained(parametrization=square.parametrization, budget=40)
    assert np.isfinite(square(optimizer.minimize(square).value))


def test_item_2_several_objectives(problem):
    f = problem.to_nevergrad(objectives=("loss", "drift"))
    f.parametrization.random_state.seed(1)
    optimizer = ng.optimizers.DE(parametrization=f.parametrization, budget=60)
    optimizer.tell(ng.p.MultiobjectiveReference(), [20, 50])
    optimizer.suggest(problem.x0)
    optimizer.minimize(f)
    front = sorted(optimizer.pareto_front(), key=lambda candidate: candidate.losses[0])
    assert len(front) >= 2
    for candidate in front:
        np.testing.assert_array_equal(candidate.losses, f(candidate.value))
    for subset in ("random", "loss-covering", "domain-covering", "hypervolume"):
        assert len(optimizer.pareto_front(2, subset=subset)) == 2


def test_item_2_seeds(problem):
    def trace(seed):
        f = problem.to_nevergrad()
        f.parametrization.random_state.seed(seed)
        losses = []
        optimizer = ng.optimizers.PSO(f.parametrization, budget=30)
        optimizer.minimize(lambda x: losses.append(f(x)) or losses[-1])
        return losses

    assert trace(12) == trace(12) != trace(13)


def test_item_3_a_hundred_pickles_copies_and_deepcopies_are_one_problem(square, points):
    (_, x) = points(2, 32)
    data = pickle.dumps(square)
    pickled = [pickle.loads(data) for _ in range(100)]
    assert len({id(f.problem) for f in pickled}) == 1
    deep = [copy.deepcopy(square) for _ in range(100)]
    assert {id(f.problem) for f in deep} == {id(square.problem)}
    copied = square
    for _ in range(100):  # copies of copies
        copied = copied.copy()
    assert copied.problem is square.problem
    for f in (pickled[-1], deep[-1], copied):
        assert f.equivalent_to(square)
        assert f(x) == square(x)
        assert f.problem.model is square.problem.model
    assert len(square.parametrization.name) <= 34


def test_item_3_a_closed_problem_is_built_again_from_its_pickle(square):
    data = pickle.dumps(square)
    value = square(square.problem.x0)
    first = pickle.loads(data)
    first.problem.close()
    assert first.problem.closed
    assert pickle.loads(data)(np.zeros(32)) == value


@pytest.mark.parametrize("name", [*OPTIMIZERS, "NelderMead", "Cobyla"])
def test_item_10_weights_that_overflow_reach_no_optimizer(name, overflowing):
    f = overflowing.to_nevergrad()
    f.parametrization.random_state.seed(2)
    optimizer = ng.optimizers.registry[name](f.parametrization, budget=40)
    told = []
    optimizer.register_callback("tell", lambda _, candidate, loss: told.append(loss))
    recommendation = optimizer.minimize(f)
    assert all(math.isfinite(loss) for loss in told)
    assert np.isfinite(recommendation.value).all()
    if name not in ("NelderMead", "Cobyla", "OnePlusOne", "NGOpt", "NgIohTuned"):  # the others may stay near x0
        assert overflowing.penalty in told


@pytest.mark.parametrize("name", ["genetic-algorithm", "cma", "nevergrad:CMA", "pymoo:CMAES", "pymoo:PSO"])
def test_item_10_failures_are_in_the_log(name, overflowing):
    result = minimize(overflowing, name, budget=60, seed=1)
    failed = result.history["status"] == "non-finite"
    assert 0 < failed.sum() < 60
    assert not np.isfinite(result.history["loss"][failed]).any()
    assert np.isfinite(result.history["loss"][~failed]).all()
    assert np.isfinite(result.best_loss)
