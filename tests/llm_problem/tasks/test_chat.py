"""Chat templates around the prompts of classification and multiple choice."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

import llm_problem as lp
from tests.llm_problem.tasks.test_multiple_choice import task_of as choices_of

LAST = lp.subspaces.LoRAXS(2, layers=1)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(small_pair):
    """A causal model whose tokenizer has a chat template."""
    model, tokenizer = small_pair("llama")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    return model, tokenizer


@torch.no_grad()
def log_p(pair, prompt, answer):
    """Σ log p of the answer's tokens within the template, by the stock model."""
    model, tokenizer = pair
    start = tokenizer(f"<user>{prompt}</s><a>", add_special_tokens=False)["input_ids"]
    target = tokenizer(answer, add_special_tokens=False)["input_ids"]
    logits = model(input_ids=torch.tensor([start + target])).logits[0, len(start) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(target)), target].sum())


def cross_entropy(scores, right):
    scores = np.array(scores)
    return np.logaddexp.reduce(scores) - scores[right]


@pytest.mark.parametrize("evaluator", ["serial", "auto"])
@pytest.mark.parametrize("prior", [None, "N/A"])
def test_a_label_answers_the_message(evaluator, prior, chatty, label_task):
    labels = {"bad": "bad", "good": "good"}
    task = dataclasses.replace(label_task, chat=True, prompt="{text} is", labels=labels, prior=prior)
    problem = lp.Problem(chatty, task, LAST, evaluator=evaluator)
    expected = []
    for text, right in label_task.examples("search"):
        scores = np.array([log_p(chatty, f"{text} is", word) for word in labels])
        if prior:
            without = np.array([log_p(chatty, f"{prior} is", word) for word in labels])
            scores -= without - np.logaddexp.reduce(without)
        expected.append(cross_entropy(scores, right))
    assert problem(problem.x0) == pytest.approx(np.mean(expected), abs=1e-5)
    assert problem.card()["chat"] is True
    again = lp.ProblemSpec.from_json(problem.spec.to_json())
    assert again.task.chat and again == problem.spec


def test_a_choice_answers_the_message(chatty):
    task = choices_of(chat=True, before="", prompt="{question}?")  # the model reads 64 bytes at once
    problem = lp.Problem(chatty, task, LAST)
    expected = [
        cross_entropy([log_p(chatty, prompt, choice) for choice in choices], right)
        for prompt, choices, right in task.examples("search")
    ]
    assert problem(problem.x0) == pytest.approx(np.mean(expected), abs=1e-5)


def test_only_the_text_is_cut(chatty, label_task):
    task = dataclasses.replace(label_task, chat=True, prompt="{text} is", max_length=24)
    sequences = lp.Problem(chatty, task, LAST).batch("search")
    tokenizer = chatty[1]
    for tokens in sequences.sequences:
        shown = tokenizer.decode(tokens)
        assert len(tokens) <= 24 and shown.startswith("<user>") and " is</s><a>" in shown


def test_without_a_chat_the_description_says_nothing_of_it(label_task):
    problem = lp.Problem("tiny-gpt2", label_task, LAST)
    assert "chat" not in json.loads(problem.spec.to_json())["task"] and "chat" not in problem.card()


@pytest.mark.parametrize("task", ["label_task", "choices"])
def test_what_has_no_chat_is_refused(task, request, small_pair, tiny_bert):
    task = choices_of() if task == "choices" else request.getfixturevalue(task)
    with pytest.raises(ValueError, match="chat must be True or False, got 1"):
        dataclasses.replace(task, chat=1)
    chat = dataclasses.replace(task, chat=True)
    with pytest.raises(ValueError, match="has no chat template: leave chat out"):
        lp.Problem(small_pair("llama"), chat, LAST)
    with pytest.raises(ValueError, match="masked model"):
        lp.Problem(tiny_bert, chat, LAST)
