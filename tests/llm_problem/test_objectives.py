"""Several objectives, regularisation and constraints: what evaluates to what, what it costs, and what is refused."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem import ProblemSpec

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)


@pytest.fixture(scope="module")
def pair(small_pair):
    return small_pair("gpt2", dtype=torch.float64)  # and its norms too are of double precision


@pytest.fixture(scope="module")
def make(pair, label_task):
    return lambda **options: lp.Problem(pair, label_task, SUBSPACE, **options)


@pytest.fixture(scope="module")
def parts(make):
    """Points (5, d), the first 0 and the last not finite, and each quantity of theirs by itself."""
    X = np.random.default_rng(0).standard_normal((5, make().dimension))
    X[0], X[4] = 0, np.inf
    return X, {name: make(objective=name).evaluate(X) for name in ("loss", "error", "drift", "forgetting", "norm")}


@pytest.fixture
def evaluations(monkeypatch):
    """A list with the number of candidates of each call of a problem's evaluator."""

    def of(problem):
        calls, right = [], problem.evaluator.log_probs
        monkeypatch.setattr(problem.evaluator, "log_probs", lambda X, b: calls.append(len(X)) or right(X, b))
        return calls

    return of


def test_norm_is_the_mean_square(make, points):
    X = points(5, make().dimension)
    np.testing.assert_allclose(make(objective="norm").evaluate(X), (X**2).mean(axis=1), rtol=1e-14)


def test_objectives_are_the_quantities_in_their_order(make, parts):
    X, alone = parts
    names = ("drift", "loss", "norm", "error", "forgetting")
    F, G, status = make(objectives=names).evaluate_all(X)
    np.testing.assert_array_equal(F, np.stack([alone[name] for name in names], axis=1))
    assert G.shape == (5, 0)
    assert status.tolist() == ["ok"] * 4 + ["non-finite"]


def test_regularisation_is_added_to_the_first_objective_alone(make, parts):
    X, alone = parts
    problem = make(objectives=("loss", "drift"), regularisation={"norm": 0.25, "drift": 2, "error": 0.5})
    F, _, _ = problem.evaluate_all(X)
    total = alone["loss"] + 2 * alone["drift"] + 0.5 * alone["error"] + 0.25 * alone["norm"]
    np.testing.assert_allclose(F[:, 0], total, rtol=1e-14)
    np.testing.assert_array_equal(F[:, 1], alone["drift"])
    single = make(regularisation={"norm": 0.25})
    np.testing.assert_allclose(single.evaluate(X), alone["loss"] + 0.25 * alone["norm"], rtol=1e-14)
    assert single(X[1]) == single.evaluate(X)[1]


def test_constraints_are_quantity_less_limit_by_name(make, parts):
    X, alone = parts
    problem = make(constraints={"norm": 0.9, "drift": 0.01, "loss": 5})
    assert problem.constraints == (("drift", 0.01), ("loss", 5.0), ("norm", 0.9))
    F, G, status = problem.evaluate_all(X)
    np.testing.assert_array_equal(F[:, 0], alone["loss"])
    np.testing.assert_array_equal(G[:, 0], alone["drift"] - 0.01)
    np.testing.assert_array_equal(G[:, 1], alone["loss"] - 5)
    np.testing.assert_array_equal(G[:, 2], alone["norm"] - 0.9)
    assert (G[0] <= 0).all() and (G[1:4] > 0).any()
    assert status.tolist() == ["ok"] * 4 + ["non-finite"]
    np.testing.assert_array_equal(problem.evaluate(X), alone["loss"])  # which looks at no constraint


def test_what_counts_twice_is_computed_once_and_what_does_not_count_is_not(make, points, evaluations):
    problem = make(
        objectives=("loss", "drift"), regularisation={"drift": 0.1, "error": 1}, constraints={"drift": 0.5, "loss": 9}
    )
    X = points(3, problem.dimension)
    problem.evaluate_all(X)  # the pretrained model's predictions are kept from here on
    calls = evaluations(problem)
    problem.evaluate_all(X)
    assert calls == [3, 3]  # the examples, and the neutral text
    without = make(objective="norm", constraints={"drift": 0.5})
    calls = evaluations(without)
    without.evaluate(X)
    assert calls == []


def test_numbered_minibatches_reach_the_task_alone(make, points):
    problem = make(objectives=("loss", "drift"), minibatch=2)
    X = points(3, problem.dimension)
    whole, part = problem.evaluate_all(X)[0], problem.evaluate_all(X, sample=1)[0]
    assert (whole[:, 0] != part[:, 0]).all()
    np.testing.assert_array_equal(whole[:, 1], part[:, 1])


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "drift"},
        {"objective": "forgetting"},
        {"objective": "norm"},
        {"regularisation": {"drift": 3, "forgetting": 2, "norm": 0.1}},
        {"objective": "drift", "regularisation": {"loss": 0.5}, "constraints": {"error": 0.5}},
    ],
)
def test_gradients_against_differences(make, options):
    problem = make(evaluator="serial", **options)
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    value, gradient = problem.value_and_grad(x)
    assert value == pytest.approx(problem(x), rel=1e-10)
    steps = 1e-4 * np.eye(problem.dimension)
    differences = (problem.evaluate(x + steps) - problem.evaluate(x - steps)) / 2e-4
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-8)


def test_drift_is_flat_at_the_pretrained_model(make):
    value, gradient = make(objective="drift").value_and_grad(np.zeros(make().dimension))
    assert value == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_a_part_without_a_gradient_is_refused(make):
    problem = make(regularisation={"error": 0.5})
    with pytest.raises(
        RuntimeError, match="loss, error has no gradient here: one objective of loss, drift, forgetting, norm has"
    ):
        problem.value_and_grad(problem.x0)


@pytest.mark.parametrize("options", [{"regularisation": {"norm": 1}}, {"constraints": {"error": 1}}])
def test_racing_is_refused_where_the_loss_is_not_all(make, options):
    problem = make(**options)
    with pytest.raises(RuntimeError, match=r"only the objective 'loss' can be raced, and that alone, not loss, "):
        problem.race(np.zeros((1, problem.dimension)), problem.x0)


def test_metrics_and_card_say_what_counts(make, parts):
    X, alone = parts
    problem = make(regularisation={"norm": 0.5}, constraints={"drift": 0.5})
    metrics = problem.metrics(X[1], "dev")
    assert (metrics["drift"], metrics["norm"]) == (alone["drift"][1], alone["norm"][1])
    assert set(make().metrics(X[1])) == set(metrics) - {"drift", "norm"}
    card = problem.card()
    assert card["regularisation"] == {"norm": 0.5}
    assert card["constraints"] == {"drift": 0.5}
    assert card["neutral_text"].startswith("embedded:prose (sha256 ")
    assert json.loads(json.dumps(card)) == card
    assert not {"regularisation", "constraints", "neutral_text"} & set(make().card())


@pytest.mark.parametrize(
    ("options", "unit"),
    [
        ({}, "nats per example"),
        ({"objective": "drift"}, "nats per token"),
        ({"objective": "norm"}, ""),
        ({"regularisation": {"norm": 1}}, ""),
    ],
)
def test_unit(make, options, unit):
    assert make(**options).unit == unit


# The description.


def spec_of(label_task, **options):
    return ProblemSpec("tiny-gpt2", label_task, SUBSPACE, **options)


def test_the_description_survives_json_and_sorts_its_pairs(label_task):
    spec = spec_of(
        label_task,
        objectives=("loss", "drift"),
        regularisation={"norm": np.float64(0.1), "drift": 1},
        constraints=[["norm", 2], ("error", 0.25)],
    )
    assert spec.regularisation == (("drift", 1.0), ("norm", 0.1))
    assert spec.constraints == (("error", 0.25), ("norm", 2.0))
    assert spec.neutral_text.source == "embedded:prose"
    again = ProblemSpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert hash(again) == hash(spec)


def test_a_description_without_them_is_what_it_was(label_task):
    new = {"regularisation", "constraints", "neutral_text", "other_task"}
    assert not new & set(spec_of(label_task).to_dict())
    assert not new & set(spec_of(label_task, regularisation={}, constraints=None).to_dict())
    assert set(spec_of(label_task, constraints={"norm": 1}).to_dict()) & new == {"constraints"}


def test_the_fingerprint_covers_what_counts_and_nothing_else(label_task, tmp_path):
    path = tmp_path / "neutral.txt"
    path.write_text("words " * 500)
    specs = [
        spec_of(label_task, **options)
        for options in (
            {},
            {"regularisation": {"drift": 1}},
            {"regularisation": {"drift": 2}},
            {"regularisation": {"norm": 1}},
            {"constraints": {"norm": 1}},
            {"constraints": {"norm": 2}},
            {"constraints": {"drift": 1}},
            {"constraints": {"drift": 1}, "neutral_text": path},
            {"objectives": ("drift",)},
        )
    ]
    assert len({spec.fingerprint("m") for spec in specs}) == len(specs)
    assert spec_of(label_task, neutral_text=path).fingerprint("m") == specs[0].fingerprint("m")  # nothing reads it


@pytest.mark.parametrize("what", ["regularisation", "constraints"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"drft": 1}, ValueError, "'drft': this task offers loss, error, drift, forgetting, norm"),
        ({"accuracy": 1}, ValueError, "'accuracy': this task offers loss, error, drift, forgetting, norm"),
        ({"drift": -0.1}, ValueError, "'drift' must have a finite number that is not negative, got -0.1"),
        ({"norm": np.nan}, ValueError, "'norm' must have a finite number that is not negative, got nan"),
        ({"norm": np.inf}, ValueError, "got inf"),
        ({"norm": "1"}, ValueError, "got '1'"),
        ({"norm": True}, ValueError, "got True"),
        ([("norm", 1), ("norm", 2)], ValueError, "names a quantity twice: norm, norm"),
        ("drift", TypeError, "must be a mapping such as {'drift': 0.1}, got 'drift'"),
        (0.5, TypeError, "must be a mapping"),
        (["drift"], TypeError, "must be a mapping"),
    ],
)
def test_what_does_not_fit_is_refused(label_task, what, given, error, message):
    with pytest.raises(error, match=message) as caught:
        spec_of(label_task, **{what: given})
    assert what in str(caught.value)


def test_unknown_objectives_are_refused_with_those_there_are(label_task, text_task, make):
    with pytest.raises(
        ValueError, match="unknown objective 'nrom': this task offers loss, error, drift, forgetting, norm"
    ):
        spec_of(label_task, objectives=("nrom",))
    with pytest.raises(ValueError, match="unknown objective 'error': this task offers loss, drift, forgetting, norm"):
        spec_of(text_task, objectives=("error",))
    with pytest.raises(ValueError, match="unknown objective 'drfit'"):
        make().to_nevergrad(objectives=("loss", "drfit"))


def test_a_neutral_text_of_another_form_is_refused(label_task):
    values = spec_of(label_task, objectives=("drift",)).to_dict()
    with pytest.raises(ValueError, match="neutral_text of a problem description must have source, sha256 and records"):
        ProblemSpec.from_dict({**values, "neutral_text": "prose.txt"})


# Copies.


def test_pickles_and_copies_evaluate_equal(tiny_gpt2, text_task, points):
    problem = lp.Problem(
        "tiny-gpt2", text_task, SUBSPACE, objectives=("loss", "norm"), constraints={"drift": 0.1}, seed=2
    )
    data = pickle.dumps(problem)
    assert len(data) < 20_000
    X = points(3, problem.dimension)
    F, G, _ = problem.evaluate_all(X)
    for twin in (pickle.loads(data), copy.deepcopy(problem)):
        again = twin.evaluate_all(X)
        np.testing.assert_array_equal(again[0], F)
        np.testing.assert_array_equal(again[1], G)
        assert twin.fingerprint == problem.fingerprint


def test_a_closed_problem_lets_go_of_all(make):
    problem = make(objectives=("loss", "drift"))
    problem.close()
    with pytest.raises(RuntimeError, match="closed"):
        problem.evaluate_all(np.zeros((1, 8)))
    assert not any(hasattr(problem, name) for name in ("_drift", "_objectives", "_evaluator"))


def test_another_objective_on_the_same_model_is_the_problem_made_anew(make, parts):
    X, alone = parts
    problem = make(objectives=("loss", "drift"), constraints={"norm": 0.9})
    other = problem.minimising("error", regularisation={"loss": 0.1})
    np.testing.assert_array_equal(other.evaluate(X), alone["error"] + 0.1 * alone["loss"])
    assert other.constraints == ()
    assert other.fingerprint == make(objective="error", regularisation={"loss": 0.1}).fingerprint
    assert other.evaluator is problem.evaluator
    assert problem.objectives == ("loss", "drift")
    other.close()
    assert np.isfinite(problem.evaluate_all(X[:1])[0]).all()
    with pytest.raises(ValueError, match="unknown objective 'eror'"):
        problem.minimising("eror")
    with pytest.raises(ValueError, match="at least one objective"):
        problem.minimising()
