"""Forgetting against the losses of problems of the other task, and what is refused."""

import pickle

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.subspaces import LoRAXS, SoftPrompt

PROSE = lp.tasks.LanguageModelling("embedded:prose", window=32, search_size=16)
SUBSPACE = LoRAXS(2, layers=1)


def sentiment(prompt="{text} It was", size=6):
    return lp.tasks.Classification(
        "embedded:sentiment",
        text="text",
        label="label",
        prompt=prompt,
        labels={"negative": " bad", "positive": " good"},
        split="split",
        search_size=size,
    )


def windows_loss(problem, x):
    """Nats per predicted token of the stock model on 16 windows of the search part of the prose, evenly spread."""
    ids = problem.tokenizer(PROSE.text("search"), add_special_tokens=False, verbose=False)["input_ids"]
    count = (len(ids) - 1) // 31
    losses = []
    with problem.evaluator.changed(x[None]), torch.no_grad():
        for sequence in problem._batches.other().sequences:
            start = next(k for k in range(len(ids)) if ids[k : k + len(sequence)] == sequence.tolist())
            window = torch.tensor(ids[start : start + len(sequence) + 1])
            logits = problem.model(input_ids=window[None, :-1]).logits[0].double()
            losses.append(torch.nn.functional.cross_entropy(logits, window[1:], reduction="none"))
    assert len(losses) == min(16, count)
    return float(torch.cat(losses).mean())


def test_it_is_the_stock_models_loss_on_other_text_less_the_pretrained_ones(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, sentiment(), SUBSPACE, objective="forgetting")
    x = 3 * np.random.default_rng(0).standard_normal(problem.dimension)
    expected = windows_loss(problem, x) - windows_loss(problem, problem.x0)
    assert abs(expected) > 1e-3
    assert problem(x) == pytest.approx(expected, rel=1e-4)
    assert problem(problem.x0) == 0
    assert problem.unit == "nats per token"


@pytest.mark.parametrize("evaluator", ["serial", "replay"])
def test_it_is_the_other_problems_loss(tiny_gpt2, points, evaluator):
    """With each of two tasks as the other of the other, whatever their kinds."""
    pair = (sentiment(), lp.tasks.LanguageModelling("embedded:prose", window=16, search_size=3))
    for here, there in (pair, pair[::-1]):
        subspace = LoRAXS(2, layers=2)
        problem = lp.Problem(
            tiny_gpt2, here, subspace, objectives=("loss", "forgetting"), other_task=there, evaluator=evaluator
        )
        units = problem.spec.units  # of x, which follow from the task
        spec = lp.ProblemSpec("tiny-gpt2", there, subspace, units=units, evaluator=evaluator)
        other = lp.Problem.from_spec(spec)
        X = points(3, problem.dimension)
        F, _, _ = problem.evaluate_all(X)
        np.testing.assert_allclose(F[:, 1], other.evaluate(X) - other(other.x0), rtol=1e-5, atol=1e-6)


def test_a_value_does_not_depend_on_its_population(tiny_gpt2, points):
    problem = lp.Problem(tiny_gpt2, sentiment(), SUBSPACE, objective="forgetting")
    X = points(9, problem.dimension)
    X[4] = np.nan
    together = problem.evaluate(X)
    np.testing.assert_array_equal(together, [problem.evaluate(x[None])[0] for x in X])
    assert np.isnan(together[4]) and np.isfinite(np.delete(together, 4)).all()


def test_a_prompt_that_is_searched_stands_before_the_other_task_too(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, sentiment(), SoftPrompt("The review says:"), objective="forgetting")
    assert problem(problem.x0) == 0
    assert problem(np.random.default_rng(0).standard_normal(problem.dimension)) != 0


def test_faces_offer_it_without_being_asked_before(tiny_gpt2, points):
    problem = lp.Problem(tiny_gpt2, sentiment(), SUBSPACE)
    X = points(4, problem.dimension)
    face = problem.to_pymoo(objectives=("loss", "forgetting"))
    F = face.evaluate(X)
    np.testing.assert_array_equal(F[:, 0], problem.evaluate(X))
    named = lp.Problem(tiny_gpt2, sentiment(), SUBSPACE, objective="forgetting", other_task=PROSE)
    np.testing.assert_array_equal(F[:, 1], named.evaluate(X))
    f = problem.to_nevergrad(objectives=("loss", "forgetting"))
    np.testing.assert_array_equal([f(x) for x in X], F)


def test_it_can_be_limited_and_weighed(tiny_gpt2, points):
    alone = lp.Problem(tiny_gpt2, sentiment(), SUBSPACE, objectives=("loss", "forgetting"))
    both = lp.Problem(
        tiny_gpt2, sentiment(), SUBSPACE, regularisation={"forgetting": 2}, constraints={"forgetting": 0.1}
    )
    X = points(3, alone.dimension)
    apart, (F, G, _) = alone.evaluate_all(X)[0], both.evaluate_all(X)
    np.testing.assert_array_equal(F[:, 0], apart[:, 0] + 2 * apart[:, 1])
    np.testing.assert_array_equal(G[:, 0], apart[:, 1] - 0.1)
    assert both.metrics(X[0], "dev")["forgetting"] == apart[0, 1]


def test_description_pickle_and_fingerprint_carry_the_other_task():
    options = {"objective": "forgetting", "other_task": sentiment("{text} All in all it was")}
    problem = lp.Problem("tiny-gpt2", PROSE, SUBSPACE, **options)
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    assert problem.unit == "nats per example"
    for twin in (
        lp.Problem.from_spec(lp.ProblemSpec.from_json(problem.spec.to_json())),
        pickle.loads(pickle.dumps(problem)),
    ):
        assert twin.spec == problem.spec
        assert twin.fingerprint == problem.fingerprint
        assert twin(x) == problem(x)
    assert problem.card()["other_task"]["prompt"] == "{text} All in all it was"
    specs = [
        lp.ProblemSpec("tiny-gpt2", PROSE, SUBSPACE, ("forgetting",)),
        lp.ProblemSpec("tiny-gpt2", PROSE, SUBSPACE, ("forgetting",), other_task=sentiment()),
        lp.ProblemSpec("tiny-gpt2", PROSE, SUBSPACE, ("forgetting",), other_task=sentiment(size=8)),
    ]
    assert len({spec.fingerprint("m") for spec in specs}) == 3
    plain, unread = (lp.ProblemSpec("tiny-gpt2", PROSE, SUBSPACE, other_task=task) for task in (None, sentiment()))
    assert plain.fingerprint("m") == unread.fingerprint("m")  # nothing reads it
    assert "other_task" not in plain.to_dict()


def test_what_does_not_do_is_refused(tiny_gpt2, small_pair, label_task):
    with pytest.raises(TypeError, match=r"other_task must be a task such as .*, got str"):
        lp.Problem(tiny_gpt2, sentiment(), SUBSPACE, other_task="prose")
    unscored = lp.tasks.Generation.from_records(
        [{"start": "Once"}] * 3, prompt="{start}", scorer=lambda prompts, outputs, references: [0.0] * len(outputs)
    )
    with pytest.raises(ValueError, match="forgetting is a loss on the other task, and this one has none"):
        lp.Problem(tiny_gpt2, sentiment(), SUBSPACE, other_task=unscored)
    with pytest.raises(ValueError, match="the other task, which forgetting is read on: language modelling reads"):
        lp.Problem(small_pair("t5"), label_task, LoRAXS(2), objective="forgetting")
