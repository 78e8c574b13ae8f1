"""`Problem`: what it returns, what it refuses, and what it shares."""

import json
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch

import llm_problem as lp

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)


@pytest.fixture(scope="module")
def problem(small_pair, label_task):
    return lp.Problem(small_pair("llama"), label_task, SUBSPACE)


def test_zero_is_the_pretrained_model(problem, small_pair, label_task):
    other = lp.Problem(small_pair("llama"), label_task, lp.subspaces.RandomSubspace(3, layers=1))
    assert problem(problem.x0) == pytest.approx(other(other.x0), abs=1e-6)
    assert np.count_nonzero(problem.x0) == 0


def test_what_it_says_of_its_space(problem):
    lower, upper = problem.bounds
    assert problem.dimension == 16
    assert problem.x0.shape == lower.shape == upper.shape == (16,)
    assert (lower, upper) == (pytest.approx(-5), pytest.approx(5))
    assert problem.sigma == 1.0
    assert problem.objectives == ("loss",)
    assert problem.unit == "nats per example"
    assert np.isfinite(problem.penalty)


def test_x0_and_bounds_are_fresh_arrays(problem):
    problem.x0[:] = 7
    problem.bounds[0][:] = 7
    assert not problem.x0.any()
    assert (problem.bounds[0] == -5).all()


@pytest.mark.parametrize("convert", [list, tuple, np.asarray, torch.tensor, lambda x: np.asarray(x, dtype=np.float32)])
def test_call_takes_any_sequence_of_numbers_and_gives_a_float(problem, convert):
    x = [0.5] * problem.dimension
    value = problem(convert(x))
    assert type(value) is float
    assert value == problem.evaluate([x])[0]


def test_evaluate_gives_one_float64_for_each_candidate(problem, points):
    values = problem.evaluate(points(5, problem.dimension))
    assert values.shape == (5,)
    assert values.dtype == np.float64
    assert len(set(values)) == 5
    assert problem.evaluate(np.empty((0, problem.dimension))).shape == (0,)


def test_evaluating_leaves_its_argument(problem, points):
    X = points(3, problem.dimension)
    before = X.copy()
    problem.evaluate(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("evaluator", ["serial", "replay"])
@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_a_value_does_not_depend_on_its_population(n, evaluator, small_pair, text_task, points):
    problem = lp.Problem(small_pair("gpt2"), text_task, SUBSPACE, evaluator=evaluator)
    X = points(n, problem.dimension)
    together = problem.evaluate(X)
    for i in range(n):
        assert together[i] == problem.evaluate(X[i : i + 1])[0] == problem(X[i])
    np.testing.assert_array_equal(problem.evaluate(X[::-1]), together[::-1])


@pytest.mark.parametrize("x", [[0.0] * 15, [[0.0] * 16], 0.0, []])
def test_call_refuses_another_shape(problem, x):
    with pytest.raises(ValueError, match=r"x must have shape \(16,\), got "):
        problem(x)


@pytest.mark.parametrize("X", [[0.0] * 16, [[0.0] * 15], [[[0.0] * 16]]])
def test_evaluate_refuses_another_shape(problem, X):
    with pytest.raises(ValueError, match=r"X must have shape \(n, 16\), got "):
        problem.evaluate(X)


@pytest.mark.parametrize(("x", "got"), [([None] * 16, "None"), (["1.5"] * 16, "'1.5'"), ([1j] * 16, "1j")])
def test_what_is_no_number_is_refused(problem, x, got):
    for call in (problem, lambda x: problem.evaluate([x]), problem.value_and_grad, problem.metrics):
        with pytest.raises(ValueError, match=rf"^[xX] must hold numbers, got .*{got}"):
            call(x)
    numbers = [Fraction(1, 2)] * 16
    assert problem(numbers) == problem([0.5] * 16)


@pytest.mark.parametrize("call", ["value_and_grad", "metrics"])
def test_other_calls_refuse_another_shape(problem, call):
    with pytest.raises(ValueError, match=r"x must have shape \(16,\), got \(15,\)"):
        getattr(problem, call)(np.zeros(15))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_point_that_is_not_finite_has_no_loss_and_spoils_no_other(problem, bad, points):
    X = points(3, problem.dimension)
    expected = problem.evaluate(X)
    X[1, 4] = bad
    values = problem.evaluate(X)
    assert np.isnan(values[1])
    np.testing.assert_array_equal(values[[0, 2]], expected[[0, 2]])
    F, G, status = problem.evaluate_all(X)
    assert status.tolist() == ["ok", "non-finite", "ok"]
    assert (F.shape, G.shape) == ((3, 1), (3, 0))
    with pytest.raises(ValueError, match="finite"):
        problem.metrics(X[1])


@pytest.mark.parametrize(("family", "size"), [("gpt2", 1e30), ("bert", 1e30), ("llama", 1e38), ("llama", 1e300)])
def test_an_overflow_is_recorded_raw_and_penalised_by_the_faces(family, size, small_pair, label_task):
    problem = lp.Problem(small_pair(family), label_task, SUBSPACE)
    x = np.full(problem.dimension, size)
    before = problem(problem.x0)
    assert not np.isfinite(problem(x))
    assert problem.evaluate_all(x[None])[2] == ["non-finite"]
    assert problem.to_nevergrad()(x) == problem.penalty
    assert problem.to_pymoo().evaluate(x[None])[0, 0] == problem.penalty
    assert problem(problem.x0) == before


def test_evaluate_works_outside_the_bounds(problem):
    assert np.isfinite(problem(np.full(problem.dimension, 6.0)))


@pytest.mark.parametrize("family", ["gpt2", "opt", "bert"])  # which compute in double precision throughout
@pytest.mark.parametrize("subspace", [SUBSPACE, lp.subspaces.RandomSubspace(6, layers=1)], ids=["lora-xs", "random"])
def test_gradient_equals_central_differences(family, subspace, small_pair, label_task):
    problem = lp.Problem(small_pair(family, dtype=torch.float64), label_task, subspace, evaluator="serial")
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    value, gradient = problem.value_and_grad(x)
    assert value == pytest.approx(problem(x), abs=1e-10)
    steps = 1e-4 * np.eye(problem.dimension)
    differences = (problem.evaluate(x + steps) - problem.evaluate(x - steps)) / 2e-4
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)


def test_gradient_in_the_full_vector_follows_tied_weights(small_pair, text_task):
    pair = small_pair("gpt2", dtype=torch.float64, tie_word_embeddings=True)
    problem = lp.Problem(pair, text_task, lp.subspaces.FullVector(), evaluator="serial")
    _, gradient = problem.value_and_grad(problem.x0)
    direction = np.random.default_rng(1).standard_normal(problem.dimension)
    ahead, behind = problem.evaluate([1e-4 * direction, -1e-4 * direction])
    assert gradient @ direction == pytest.approx((ahead - behind) / 2e-4, rel=1e-5)


def test_gradient_in_single_precision_after_evaluating(problem):
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    loss = problem(x)
    value, gradient = problem.value_and_grad(x)
    assert value == pytest.approx(loss, abs=1e-5)
    assert gradient.shape == (problem.dimension,)
    assert gradient.dtype == np.float64
    assert np.isfinite(gradient).all()
    assert problem(x) == loss


def test_gradient_of_what_has_none_is_refused(small_pair, label_task):
    for objectives in (["error"], ["loss", "error"]):
        problem = lp.Problem(small_pair("llama"), label_task, SUBSPACE, objectives=objectives)
        with pytest.raises(RuntimeError, match="has no gradient here"):
            problem.value_and_grad(problem.x0)


def test_metrics_of_each_split(problem):
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    found = {split: problem.metrics(x, split) for split in ("search", "dev", "test")}
    assert found["search"]["loss"] == problem(x)
    assert found["search"] == found["dev"] != found["test"]  # the data say so
    assert problem.metrics(x) == found["test"]
    for metrics in found.values():
        assert metrics["error"] == 1 - metrics["accuracy"]
        assert all(type(value) is float for value in metrics.values())
    with pytest.raises(ValueError, match="split must be one of search, dev, test, got 'train'"):
        problem.metrics(x, "train")


def test_several_objectives(small_pair, label_task, points):
    problem = lp.Problem(small_pair("llama"), label_task, SUBSPACE, objectives=("error", "loss"))
    X = points(4, problem.dimension)
    F, G, status = problem.evaluate_all(X)
    assert (F.shape, G.shape, set(status)) == ((4, 2), (4, 0), {"ok"})
    for x, (error, loss) in zip(X, F, strict=True):
        metrics = problem.metrics(x, "search")
        assert (error, loss) == (metrics["error"], metrics["loss"])
    with pytest.raises(RuntimeError, match="use evaluate_all"):
        problem.evaluate(X)


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        (["lose"], "unknown objective 'lose': this task offers loss, error"),
        ([], "at least one"),
        (["loss"] * 2, "twice"),
    ],
)
def test_objectives_that_do_not_fit_are_refused(objectives, message, small_pair, label_task):
    with pytest.raises(ValueError, match=message):
        lp.Problem(small_pair("llama"), label_task, SUBSPACE, objectives=objectives)


@pytest.fixture(scope="module")
def with_minibatches(small_pair, text_task):
    return lp.Problem(small_pair("llama"), text_task, SUBSPACE, minibatch=2)


def test_minibatches_are_fixed_by_their_number(with_minibatches, points):
    X = points(3, with_minibatches.dimension)
    values = [with_minibatches.evaluate(X, sample=k) for k in range(12)]
    again = [with_minibatches.evaluate(X, sample=k) for k in reversed(range(12))][::-1]
    np.testing.assert_array_equal(values, again)
    assert 1 < len({tuple(v) for v in values}) <= 6  # 2 of 4 windows
    np.testing.assert_array_equal(with_minibatches.evaluate(X[1:2], sample=5)[0], values[5][1])


def test_minibatches_of_all_examples_are_the_whole(small_pair, text_task, points):
    problem = lp.Problem(small_pair("llama"), text_task, SUBSPACE, minibatch=4)
    X = points(2, problem.dimension)
    np.testing.assert_allclose(problem.evaluate(X, sample=3), problem.evaluate(X), rtol=0, atol=2e-6)


@pytest.mark.parametrize("sample", [-1, 1.5, "0", True])
def test_a_minibatchs_number_is_a_non_negative_integer(sample, with_minibatches):
    with pytest.raises(ValueError, match="sample must be a non-negative integer"):
        with_minibatches.evaluate(with_minibatches.x0[None], sample=sample)


def test_minibatches_that_are_not_there_are_refused(problem, small_pair, text_task):
    with pytest.raises(ValueError, match="has no minibatches: make it with"):
        problem.evaluate(problem.x0[None], sample=0)
    with pytest.raises(ValueError, match="minibatch 5 is more than the 4 search examples"):
        lp.Problem(small_pair("llama"), text_task, SUBSPACE, minibatch=5)


def test_card_is_plain_json_and_true(problem):
    card = json.loads(json.dumps(problem.card()))
    assert card["dimension"] == problem.dimension
    assert card["search_examples"] == problem.batch("search").examples
    assert card["search_tokens"] == sum(s.size for s in problem.batch("search").sequences)
    assert card["model_parameters"] == sum(p.numel() for p in problem.model.parameters())
    assert card["fingerprint"] == problem.fingerprint
    assert card["evaluator"].startswith("replay")
    assert card["bounds"] == [-5, 5]


def test_card_states_the_precision_that_is_computed_in(small_pair, label_task):
    problem = lp.Problem(small_pair("llama", dtype=torch.bfloat16), label_task, SUBSPACE)
    assert problem.card()["dtype"] == "bfloat16"


def test_fingerprint_follows_what_decides_the_value(small_pair, label_task, text_task):
    def fingerprint(family="llama", task=label_task, subspace=SUBSPACE, **options):
        return lp.Problem(small_pair(family), task, subspace, **options).fingerprint

    same = fingerprint()
    assert same == fingerprint()
    others = [
        fingerprint("qwen2"),
        fingerprint(task=text_task),
        fingerprint(subspace=lp.subspaces.LoRAXS(2, layers=1)),
        fingerprint(objective="error"),
        fingerprint(seed=1),
        fingerprint(minibatch=2),
    ]
    assert len({same, *others}) == 7


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be a name, a directory, a hub id or a pair"),
        ({"model": "tiny-gtp2"}, ValueError, "did you mean tiny-gpt2"),
        ({"task": "sentiment"}, TypeError, "task must be a task such as"),
        ({"subspace": "lora"}, TypeError, "subspace must be a subspace such as"),
        ({"dtype": "float8"}, ValueError, "dtype must be one of float32, bfloat16, got 'float8'"),
        ({"evaluator": "fast"}, ValueError, "evaluator must be one of auto, serial, replay, got 'fast'"),
        ({"seed": -1}, ValueError, "seed must be a non-negative integer, got -1"),
        ({"minibatch": 0}, ValueError, "minibatch must be at least 1 example|minibatch must be an integer"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, message, small_pair, label_task):
    arguments = {"model": small_pair("llama"), "task": label_task, "subspace": SUBSPACE} | options
    with pytest.raises(error, match=message):
        lp.Problem(arguments.pop("model"), arguments.pop("task"), arguments.pop("subspace"), **arguments)


def test_numpy_integers_are_integers(small_pair, label_task):
    problem = lp.Problem(small_pair("llama"), label_task, SUBSPACE, seed=np.int64(2), minibatch=np.int32(3))
    assert (type(problem.spec.seed), type(problem.spec.minibatch)) == (int, int)
    assert lp.ProblemSpec.from_json(problem.spec.to_json()) == problem.spec


def test_a_description_is_taken_as_it_is_as_text_and_as_a_dictionary(text_task, tmp_path):
    problem = lp.Problem("tiny-gpt2", text_task, SUBSPACE)
    problem.save_basis(tmp_path / "basis.safetensors")
    x, text = np.ones(problem.dimension), problem.spec.to_json()
    for description in (problem.spec, text, problem.spec.to_dict()):
        again = lp.Problem.from_spec(description, basis=tmp_path / "basis.safetensors")
        assert (again.spec, again(x)) == (problem.spec, problem(x))
    with pytest.raises(TypeError, match=r"a description of a problem was expected \(problem.spec, or .*got Problem"):
        lp.Problem.from_spec(problem)
    with pytest.raises(ValueError, match="a problem description must be JSON: Unterminated"):
        lp.Problem.from_spec(text[:-20])


def test_a_pickle_says_where_a_problem_runs(text_task):
    problem = lp.Problem("tiny-gpt2", text_task, SUBSPACE, memory_limit=10**8)
    again = pickle.loads(pickle.dumps(problem))
    assert again._where == problem._where == {"device": "cpu", "memory_limit": 10**8, "basis": None}
    problem._where["device"] = "cuda:77"  # a device of the machine that it came from
    with pytest.raises(ValueError, match=r"device 'cuda:77' is not there: torch .* offers cpu"):
        pickle.loads(pickle.dumps(problem))


def test_readable_name_and_repr(problem):
    assert repr(problem) == f"<Problem {problem.name}>"
    assert problem.name.endswith("-classification-lora-xs-d16")
