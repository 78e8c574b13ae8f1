"""Chat templates around the prompts of classification and multiple choice."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

import llm_problem as lp
from tests.llm_problem.tasks.test_multiple_choice import task_of as choices_of

LAST = lp.subspaces.LoRAXS(2, layers=1)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(small_pair):
    """A causal model whose tokenizer has a chat template, and begins what it encodes with <s>, as the template does."""
    return small_pair("llama")[0], chatty_tokenizer(small_pair)


def chatty_tokenizer(small_pair, template=TEMPLATE):
    tokenizer = copy.deepcopy(small_pair("llama")[1])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = template
    return tokenizer


@torch.no_grad()
def log_p(pair, prompt, answer):
    """Σ log p of the answer's tokens within the template, by the stock model."""
    model, tokenizer = pair
    start = tokenizer(f"<s><user>{prompt}</s><a>", add_special_tokens=False)["input_ids"]
    assert start.count(tokenizer.bos_token_id) == 1
    target = tokenizer(answer, add_special_tokens=False)["input_ids"]
    logits = model(input_ids=torch.tensor([start + target])).logits[0, len(start) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(target)), target].sum())


def cross_entropy(scores, right):
    scores = np.array(scores)
    return np.logaddexp.reduce(scores) - scores[right]


@pytest.mark.parametrize("evaluator", ["serial", "auto"])
@pytest.mark.parametrize("prior", [None, "N/A", ("N/A", "")])
def test_a_label_answers_the_message(evaluator, prior, chatty, label_task):
    labels = {"bad": "bad", "good": "good"}
    task = dataclasses.replace(label_task, chat=True, prompt="{text} is", labels=labels, prior=prior)
    problem = lp.Problem(chatty, task, LAST, evaluator=evaluator)
    expected = []
    for text, right in label_task.examples("search"):
        scores = np.array([log_p(chatty, f"{text} is", word) for word in labels])
        if prior:
            texts = (prior,) if isinstance(prior, str) else prior
            without = [np.array([log_p(chatty, f"{text} is", word) for word in labels]) for text in texts]
            shares = np.mean([np.exp(bias - np.logaddexp.reduce(bias)) for bias in without], axis=0)
            scores -= np.log(shares)
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
        assert len(tokens) <= 24 and shown.startswith("<s><user>") and " is</s><a>" in shown


def test_without_a_chat_the_description_says_nothing_of_it(label_task):
    problem = lp.Problem("tiny-gpt2", label_task, LAST)
    assert "chat" not in json.loads(problem.spec.to_json())["task"] and "chat" not in problem.card()


@pytest.mark.parametrize("task", ["label_task", "choices"])
def test_what_has_no_chat_is_refused(task, request, small_pair, tiny_bert):
    task = choices_of() if task == "choices" else request.getfixturevalue(task)
    with pytest.raises(ValueError, match=r"chat must be True, False or options such as .*, got 1"):
        dataclasses.replace(task, chat=1)
    with pytest.raises(ValueError, match="'system' must be a text, a number, True or False, got None"):
        dataclasses.replace(task, chat={"system": None})
    with pytest.raises(ValueError, match="'messages' is no option of a chat"):
        dataclasses.replace(task, chat={"messages": "hello"})
    chat = dataclasses.replace(task, chat=True)
    with pytest.raises(ValueError, match=r"^the tokenizer of .* has no chat template: leave chat out"):
        lp.Problem(small_pair("llama"), chat, LAST)
    with pytest.raises(ValueError, match="masked model"):
        lp.Problem(tiny_bert, chat, LAST)


THINKING = (
    "{% if messages[0]['role'] == 'system' %}[{{ messages[0]['content'] }}]{% endif %}"
    "<{{ messages[-1]['content'] }}>{% if think is defined and not think %}</t>{% endif %}"
)


def test_options_reach_the_template(small_pair, label_task):
    tokenizer = chatty_tokenizer(small_pair, THINKING)
    pair = small_pair("llama")[0], tokenizer
    task = dataclasses.replace(label_task, chat={"think": False, "system": "Be brief."}, prompt="{text}:")
    problem = lp.Problem(pair, task, LAST)
    shown = [tokenizer.decode(ids) for ids in problem.batch("search").sequences]
    for text, _ in label_task.examples("search"):
        assert any(read.startswith(f"[Be brief.]<{text}:></t>") for read in shown)
    assert problem.card()["chat"] == {"system": "Be brief.", "think": False}
    again = lp.ProblemSpec.from_json(problem.spec.to_json())
    assert again == problem.spec and again.task == task
    plain = lp.Problem(pair, dataclasses.replace(task, chat=True), LAST)
    assert plain.fingerprint != problem.fingerprint and plain(plain.x0) != problem(problem.x0)


@pytest.mark.parametrize(
    ("template", "chat", "message"),
    [
        (THINKING, {"thinks": False}, "does not do: it reads no 'thinks'; besides system, it reads think"),
        (TEMPLATE, {"think": False}, "it reads no 'think'; besides system, it reads nothing"),
        ("{{ messages[-1]['content'] }}", {"system": "Be brief."}, "leaves out what it is given: 'Be brief.'"),
        ("hello", True, "leaves out what it is given: 'a prompt'"),
        ("{{ raise_exception('no system here') }}", True, "does not do: no system here"),
        ("{% if %}", True, "does not do: "),
    ],
)
def test_a_template_that_does_not_do_is_refused_before_any_row(template, chat, message, small_pair, label_task):
    pair = small_pair("llama")[0], chatty_tokenizer(small_pair, template)
    with pytest.raises(ValueError, match=message) as error:
        lp.Problem(pair, dataclasses.replace(label_task, chat=chat), LAST)
    assert str(error.value).startswith("the chat template of ")


def test_a_template_with_a_date_does_not_change_overnight(small_pair, label_task):
    template = "{{ strftime_now('%d %b %Y') }}<{{ messages[-1]['content'] }}>"
    pair = small_pair("llama")[0], chatty_tokenizer(small_pair, template)
    sequences = lp.Problem(pair, dataclasses.replace(label_task, chat=True), LAST).batch("search").sequences
    assert all(pair[1].decode(ids).startswith("26 Jul 2024<") for ids in sequences)


def test_an_encoder_reads_the_message_and_the_label_is_what_is_written(small_pair, label_task):
    model, tokenizer = small_pair("t5")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "<{{ messages[-1]['content'] }}>"
    task = dataclasses.replace(label_task, chat=True, prompt="{text} is")
    batch = lp.Problem((model, tokenizer), task, LAST).batch("search")
    shown = {tokenizer.decode(ids) for ids in batch.sources}
    assert shown == {f"<{text} is></s>" for text, _ in label_task.examples("search")}


def test_a_cut_column_is_cut_within_the_message(chatty):
    task = choices_of(chat=True, before="", prompt="{question}?", cut="question", max_length=44)
    tokenizer = chatty[1]
    for ids in lp.Problem(chatty, task, LAST).batch("search").sequences:
        shown = tokenizer.decode(ids)
        assert len(ids) <= 44 and shown.startswith("<s><user>") and "?</s><a>" in shown


def save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_another_template_is_another_problem(tmp_path, small_pair, label_task):
    """Two folders that differ in the template alone: neither fingerprint nor tokens are the same."""
    model = small_pair("llama")[0]
    first = save(tmp_path / "a", model, chatty_tokenizer(small_pair))
    second = save(tmp_path / "b", model, chatty_tokenizer(small_pair, TEMPLATE.replace("<a>", "<b>")))
    task = dataclasses.replace(label_task, chat=True)
    one, other = lp.Problem(first, task, LAST), lp.Problem(second, task, LAST)
    assert one.fingerprint != other.fingerprint
    assert one.spec.tokens == one.card()["tokens_sha256"] != other.spec.tokens
    with pytest.raises(ValueError, match=r"become other tokens .*chat template is another one now"):
        lp.Problem.from_spec(dataclasses.replace(one.spec, model=second))
    same = lp.Problem.from_spec(one.spec)
    assert same.fingerprint == one.fingerprint and same.spec == one.spec


def test_another_tokenizer_is_refused_without_a_chat(tmp_path, small_pair, label_task):
    model, tokenizer = small_pair("llama")
    first, second = save(tmp_path / "a", model, tokenizer), save(tmp_path / "b", model, chatty_tokenizer(small_pair))
    spec = lp.Problem(first, label_task, LAST).spec
    with pytest.raises(ValueError, match="become other tokens"):
        lp.Problem.from_spec(dataclasses.replace(spec, model=second))
    again = lp.Problem.from_spec(dataclasses.replace(spec, model=second, tokens=None))
    # Without a chat the tokens follow from data and model, and fingerprints are what they were.
    assert again.spec.tokens != spec.tokens and spec.fingerprint("m") == again.spec.fingerprint("m")
