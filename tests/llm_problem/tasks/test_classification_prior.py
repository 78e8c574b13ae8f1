"""Contextual calibration: the classes' shares on a text without content are taken away (arXiv:2102.09690)."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import llm_problem as lp

SHORT = {"bad": " a", "good": " the"}  # of one token each in tiny-gpt2
LETTERS = {"bad": "b", "good": "g"}  # in models of bytes


def with_prior(task, prior, **options):
    return dataclasses.replace(task, prior=prior, **options)


def log_probs_of(loaded, text, word):
    """Σ log p of a word's tokens (the stock model's), for the prompt "{text} is "."""
    model, tokenizer = loaded.model, loaded.tokenizer
    if loaded.kind == "seq2seq":
        source = tokenizer(f"{text} is".rstrip(), return_tensors="pt")["input_ids"]
        target = tokenizer(word, add_special_tokens=False, return_tensors="pt")["input_ids"]
        return -float(model(input_ids=source, labels=target).loss) * target.shape[1]
    start, target = tokenizer(f"{text} is ")["input_ids"], tokenizer(f" {word}")["input_ids"]
    logits = model(input_ids=torch.tensor([start + target])).logits[0, len(start) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(target)), target].sum())


def by_hand(loaded, task, prior):
    """loss and accuracy from the paper's formula: q = p / p̄ of normalised p, and q normalised."""

    def shares(text):
        p = np.exp([log_probs_of(loaded, text, word) for word in ("bad", "good")])
        return p / p.sum()

    mean = np.mean([shares(text) for text in prior], axis=0)
    losses, right = [], []
    for text, label in task.examples("test"):
        q = shares(text) / mean
        q /= q.sum()
        losses.append(-np.log(q[label]))
        right.append(q.argmax() == label)
    return np.mean(losses), np.mean(right)


@pytest.mark.parametrize(("family", "prior"), [("llama", "N/A"), ("llama", ("N/A", "", "[MASK]")), ("t5", ("", "-"))])
@torch.no_grad()
def test_scores_are_those_of_the_papers_formula(family, prior, small_model, label_task):
    loaded, task = small_model(family), with_prior(label_task, prior)
    problem = lp.Problem(loaded, task, lp.subspaces.LoRAXS(2, layers=1), evaluator="serial")
    loss, accuracy = by_hand(loaded, label_task, [prior] if isinstance(prior, str) else prior)
    found = problem.metrics(problem.x0, "test")
    assert (found["loss"], found["accuracy"]) == (pytest.approx(loss, abs=1e-5), accuracy)
    plain = lp.Problem(loaded, label_task, lp.subspaces.LoRAXS(2, layers=1), evaluator="serial").metrics(problem.x0)
    assert abs(plain["loss"] - loss) > 1e-3
    assert found["examples"] == plain["examples"]


@pytest.mark.parametrize(("family", "labels"), [("llama", LETTERS), ("llama", {}), ("bert", {}), ("t5", LETTERS)])
def test_the_fast_evaluator_agrees_with_the_reference(family, labels, small_model, label_task, points, narrow_chunks):
    task = with_prior(label_task, ("N/A", ""), **({"labels": labels} if labels else {}))
    loaded = small_model(family)
    fast, reference = (
        lp.Problem(loaded, task, lp.subspaces.LoRAXS(2, layers=2), evaluator=name) for name in ("replay", "serial")
    )
    assert fast.batch("search").contrast == bool(labels)
    X = points(3, fast.dimension)
    assert fast.evaluate(X) == pytest.approx(reference.evaluate(X), abs=1e-5)


def test_words_of_one_token_are_still_only_compared(tiny_gpt2, label_task):
    """Then the vocabulary need not be gone through, with a prior or without."""
    for prior in (None, "N/A", ("N/A", "")):
        batch = with_prior(label_task, prior, prompt="{text} is", labels=SHORT).batch(tiny_gpt2, "search", 0)
        assert batch.contrast
        assert len(batch.sequences) == batch.examples + len((prior,) if isinstance(prior, str) else prior or ())


def test_the_prior_is_that_of_the_model_at_x(small_model, label_task):
    """A bias towards a class, wherever it comes from, changes nothing."""
    task = with_prior(label_task, "N/A")
    problem = lp.Problem(small_model("llama"), task, lp.subspaces.LoRAXS(2, layers=1), evaluator="serial")
    batch, x = problem.batch("dev"), np.full(problem.dimension, 0.7)
    values = problem.evaluator.log_probs(x[None], batch)[0]
    biased = values + np.where(batch.answer % 2 == 1, 3.0, 0.0) / np.where(batch.answer % 2 == 1, 5, 1)
    assert task.scores(biased, batch)["loss"] == pytest.approx(task.scores(values, batch)["loss"], abs=1e-12)
    assert task.example_losses(values, batch)[0].mean() == pytest.approx(task.scores(values, batch)["loss"])


def test_the_gradient_goes_through_the_prior(small_model, label_task, points):
    task, subspace = with_prior(label_task, "N/A"), lp.subspaces.LoRAXS(2, layers=1)
    problem = lp.Problem(small_model("llama"), task, subspace, evaluator="serial")
    x = 0.3 * points(2, problem.dimension)[1]
    value, gradient = problem.value_and_grad(x)
    assert value == pytest.approx(problem(x), abs=1e-6)
    direction = gradient / np.linalg.norm(gradient)
    slope = (problem(x + 0.01 * direction) - problem(x - 0.01 * direction)) / 0.02
    assert slope == pytest.approx(np.linalg.norm(gradient), rel=2e-2)


def test_minibatches_keep_the_prior(small_model, label_task):
    task, subspace = with_prior(label_task, "N/A"), lp.subspaces.LoRAXS(2, layers=1)
    problem = lp.Problem(small_model("llama"), task, subspace, minibatch=3, evaluator="serial")
    whole = problem.batch("search")
    losses = task.example_losses(problem.evaluator.log_probs(problem.x0[None], whole)[0], whole)[0]
    means = [losses[list(three)].mean() for three in itertools.combinations(range(6), 3)]
    for sample in range(3):
        assert np.isclose(problem.evaluate(problem.x0[None], sample=sample)[0], means, atol=1e-6).any()
    part = whole.take([4, 1, 3])
    assert (np.diff(part.sequence) >= 0).all()  # ordered by sequence, though one is read by all


def test_a_prior_is_text(label_task):
    for wrong in ((), 3, ("N/A", 3)):
        with pytest.raises((ValueError, TypeError), match=r"prior must be|not iterable"):
            with_prior(label_task, wrong)
    assert with_prior(label_task, "N/A").summary()["prior"] == ["N/A"]
    assert "prior" not in label_task.summary()
