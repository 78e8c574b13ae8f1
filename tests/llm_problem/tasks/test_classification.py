"""Classification by label words: which tokens are read where, and what loss they give."""

import dataclasses
import math
import warnings
from collections import Counter
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.tasks import Classification, TokenBatch

LABELS = {"neg": " bad", "pos": " good"}
FILLER = "a fairly long sentence about the lamp and the sea that goes on and on " * 40


def records(count=8, text="sentence {i} about the sea"):
    return [
        {"text": text.format(i=i), "label": ("neg", "pos")[i % 2], "split": ("search", "dev", "test")[i // 2 % 3]}
        for i in range(count)
    ]


def task_of(examples=None, prompt="{text} It was", labels=LABELS, **options):
    options = {"text": "text", "label": "label", "split": "split", **options}
    return Classification.from_records(
        records() if examples is None else examples, prompt=prompt, labels=labels, **options
    )


def answers_of(batch, example):
    """answer → its [(sequence, position, token), …] of one example."""
    found = {}
    for e in np.flatnonzero(batch.example == example):
        place = int(batch.sequence[e]), int(batch.position[e]), int(batch.token[e])
        found.setdefault(int(batch.answer[e]), []).append(place)
    return found


def causal_log_probs(model, ids):
    """log p (t, V) of what follows each position of one sequence, with stock transformers."""
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)


def loss_by_hand(model, tokenizer, prompts, words, right):
    """Cross-entropy over the classes of the summed log-probabilities of each label's tokens, from strings."""
    total = 0.0
    for prompt, label in zip(prompts, right, strict=True):
        start = len(tokenizer(prompt)["input_ids"])
        scores = []
        for word in words:
            ids = tokenizer(prompt + word)["input_ids"]
            log_p = causal_log_probs(model, ids)
            scores.append(sum(float(log_p[k - 1, ids[k]]) for k in range(start, len(ids))))
        top = max(scores)
        total -= scores[label] - top - math.log(sum(math.exp(score - top) for score in scores))
    return total / len(prompts)


# The loss, from numbers worked by hand.


def batch_of(example, answer, label):
    entries = len(example)
    zeros = np.zeros(entries, dtype=np.int64)
    return TokenBatch(
        (np.arange(3),), zeros, zeros, zeros, np.array(example), np.array(answer), np.array(label, dtype=np.int64)
    )


def test_loss_is_cross_entropy_over_the_classes_of_summed_log_probabilities():
    # Example 0: scores ln 0.2 and ln 0.1 + ln 0.5 = ln 0.05 → p(right) = 0.2 / 0.25 = 0.8.
    # Example 1: scores ln 0.3 and ln 0.6 + ln 0.5 = ln 0.3 → p(right) = 0.5.
    batch = batch_of([0, 0, 0, 1, 1, 1], [0, 1, 1, 0, 1, 1], [0, 1])
    log_probs = np.log([0.2, 0.1, 0.5, 0.3, 0.6, 0.5])
    scores = task_of().scores(log_probs, batch)
    assert scores["loss"] == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, abs=1e-12)
    assert scores["examples"] == 2


def test_three_classes_and_accuracy():
    batch = batch_of([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [2, 0])
    task = task_of(labels={"neg": " bad", "pos": " good", "mid": " so"})
    scores = task.scores(np.log([0.1, 0.2, 0.3, 0.1, 0.2, 0.7]), batch)
    # p(right) = 0.3 / 0.6 and 0.1 / 1.0.
    assert scores["loss"] == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2, abs=1e-12)
    assert (scores["accuracy"], scores["error"]) == (0.5, 0.5)


def test_equally_likely_classes_cost_the_logarithm_of_their_number():
    batch = batch_of([0, 0], [0, 1], [1])
    assert task_of().scores(np.log([0.25, 0.25]), batch)["loss"] == pytest.approx(math.log(2), abs=1e-12)


def test_the_loss_neither_overflows_nor_hides_what_is_not_finite():
    batch = batch_of([0, 0], [0, 1], [0])
    assert task_of().scores(np.array([-5000.0, -1000.0]), batch)["loss"] == pytest.approx(4000.0)
    scores = task_of().scores(np.array([np.nan, -1.0]), batch)
    assert all(math.isnan(scores[name]) for name in ("loss", "accuracy", "error"))


def test_the_loss_is_differentiable():
    log_probs = torch.log(torch.tensor([0.2, 0.6], dtype=torch.float64)).requires_grad_()
    task_of().loss(log_probs, batch_of([0, 0], [0, 1], [0])).backward()
    # d(−log softmax_0)/ds = softmax − one-hot, and softmax = (0.25, 0.75).
    assert log_probs.grad.tolist() == pytest.approx([-0.75, 0.75])


# What a causal model reads.


@pytest.mark.parametrize("labels", [LABELS, {"neg": " not good at all", "pos": " very good"}])
@pytest.mark.parametrize("prompt", ["{text} It was", "Review: {text}\nSentiment:{label}"])
def test_a_causal_loss_equals_one_from_strings(tiny_gpt2, prompt, labels):
    task = task_of(prompt=prompt, labels=labels)
    problem = lp.Problem("tiny-gpt2", task, lp.subspaces.LoRAXS(2, layers=1))
    found = task.examples("search")
    template = prompt.removesuffix("{label}")
    prompts = [template.replace("{text}", text) for text, _ in found]
    expected = loss_by_hand(
        tiny_gpt2.model, tiny_gpt2.tokenizer, prompts, list(labels.values()), [label for _, label in found]
    )
    assert problem(problem.x0) == pytest.approx(expected, abs=1e-5)


def test_labels_of_one_token_share_a_sequence_that_ends_with_the_prompt(tiny_gpt2):
    tokenizer = tiny_gpt2.tokenizer
    single = [w for w in (" a", " the", " and") if len(tokenizer(w)["input_ids"]) == 1][:2]
    batch = task_of(labels=dict(zip(("neg", "pos"), single, strict=True))).batch(tiny_gpt2, "search", 0)
    assert len(batch.sequences) == batch.examples
    for example in range(batch.examples):
        (sequence, position, _), (other, same, _) = (places[0] for places in answers_of(batch, example).values())
        assert sequence == other
        assert position == same == len(batch.sequences[sequence]) - 1
        assert tokenizer.decode(batch.sequences[sequence]).endswith(" It was")


def test_a_label_of_several_tokens_gets_its_own_sequence_read_at_every_token(tiny_gpt2):
    tokenizer = tiny_gpt2.tokenizer
    words = " extraordinarily good"
    tokens = tokenizer(words)["input_ids"]
    assert len(tokens) > 2
    batch = task_of(labels={"neg": " bad", "pos": words}).batch(tiny_gpt2, "search", 0)
    places = answers_of(batch, 0)[1]
    assert [token for _, _, token in places] == tokens
    (sequence,) = {sequence for sequence, _, _ in places}
    ids = batch.sequences[sequence].tolist()
    start = places[0][1]
    assert [position for _, position, _ in places] == list(range(start, start + len(tokens)))
    # Each token is predicted from all before it: the last one need not be read itself.
    assert ids[start + 1 :] == tokens[:-1]
    assert tokenizer.decode(ids[: start + 1]).endswith(" It was")


def test_any_number_of_classes(tiny_gpt2):
    names = [f"c{i}" for i in range(7)]
    examples = [{"text": f"text {i}", "label": names[i % 7], "split": "search"} for i in range(21)]
    task = task_of(examples, labels={name: f" {name}" for name in names}, search_size=14)
    batch = task.batch(tiny_gpt2, "search", 0)
    assert Counter(batch.label.tolist()) == dict.fromkeys(range(7), 2)
    assert all(sorted(answers_of(batch, k)) == list(range(7)) for k in range(14))


# What a masked model reads.


@pytest.mark.parametrize("labels", [LABELS, {"neg": " not good at all", "pos": " very good"}])
@pytest.mark.parametrize("prompt", ["{text} It was{label}.", "{text} It was {label}.", "{text} It was"])
def test_a_masked_model_sees_masks_exactly_where_the_label_would_stand(tiny_bert, prompt, labels):
    tokenizer = tiny_bert.tokenizer
    task = task_of(prompt=prompt, labels=labels)
    batch = task.batch(tiny_bert, "search", 0)
    for example, (text, _) in enumerate(task.examples("search")):
        for answer, words in enumerate(labels.values()):
            places = answers_of(batch, example)[answer]
            (sequence,) = {sequence for sequence, _, _ in places}
            ids = batch.sequences[sequence].tolist()
            positions = [position for _, position, _ in places]
            assert [k for k, token in enumerate(ids) if token == tokenizer.mask_token_id] == positions
            for _, position, token in places:
                ids[position] = token
            filled = prompt.replace("{text}", text).replace(" {label}", words).replace("{label}", words)
            assert ids == tokenizer(filled if "{label}" in prompt else filled + words)["input_ids"]


def test_a_masked_loss_reads_all_masks_of_one_forward_pass(tiny_bert):
    labels = {"neg": " bad", "pos": " not good at all"}
    task = task_of(prompt="{text} It was{label}.", labels=labels)
    problem = lp.Problem("tiny-bert", task, lp.subspaces.LoRAXS(2, layers=1))
    model, tokenizer = tiny_bert.model, tiny_bert.tokenizer
    found, total = task.examples("search"), 0.0
    for text, label in found:
        scores = []
        for words in labels.values():
            left = tokenizer(f"{text} It was")["input_ids"][:-1]
            ids = tokenizer(f"{text} It was{words}.")["input_ids"]
            places = range(len(left), len(left) + len(tokenizer(words, add_special_tokens=False)["input_ids"]))
            shown = [tokenizer.mask_token_id if k in places else token for k, token in enumerate(ids)]
            with torch.inference_mode():
                log_p = torch.log_softmax(model(input_ids=torch.tensor([shown])).logits[0].double(), dim=-1)
            scores.append(sum(float(log_p[k, ids[k]]) for k in places))
        total -= scores[label] - np.logaddexp(*scores)
    assert problem(problem.x0) == pytest.approx(total / len(found), abs=1e-5)


def test_masked_labels_of_equal_length_share_a_sequence(tiny_bert):
    labels = {"neg": " good", "pos": " good good", "mid": " good good good"}
    apart = task_of(prompt="{text} It was{label}.", labels=labels).batch(tiny_bert, "search", 0)
    assert len(apart.sequences) == 3 * apart.examples
    labels = {"neg": " good evil", "pos": " evil good"}
    together = task_of(prompt="{text} It was{label}.", labels=labels).batch(tiny_bert, "search", 0)
    assert len(together.sequences) == together.examples


def test_a_mask_that_the_data_spells_is_no_place_for_a_label(tiny_bert):
    mask = tiny_bert.tokenizer.mask_token
    examples = records(text=f"sentence {{i}} with a {mask} in it")
    batch = task_of(examples, prompt="{text} It was{label}.").batch(tiny_bert, "search", 0)
    for sequence in batch.sequences:
        masks = np.flatnonzero(sequence == tiny_bert.tokenizer.mask_token_id)
        assert masks.tolist() == list(range(masks[0], masks[-1] + 1))
        assert masks[0] > 8


def test_a_prompt_that_spells_the_mask_is_refused(tiny_bert):
    task = task_of(prompt="{text} It was [MASK].")
    with pytest.raises(ValueError, match=r"\{label\}, not \[MASK\]"):
        task.batch(tiny_bert, "search", 0)


# Only the text is cut.


@pytest.mark.parametrize("limit", [None, 40])
@pytest.mark.parametrize("words", [" good", " extraordinarily good"])
def test_only_the_text_is_cut_for_a_causal_model(tiny_gpt2, limit, words):
    tokenizer = tiny_gpt2.tokenizer
    prompt = "Review: {text}\nSentiment:"
    task = task_of(records(text=FILLER + "{i}"), prompt=prompt, labels={"neg": " bad", "pos": words}, max_length=limit)
    told = pytest.warns(UserWarning, match="example 1 and 3 others are cut to the 128 tokens")
    with nullcontext() if limit else told:
        batch = task.batch(tiny_gpt2, "search", 0)
    longest = max(len(s) for s in batch.sequences)
    room = limit or tiny_gpt2.max_length
    assert room - 4 <= longest + 1 <= room
    for example in range(batch.examples):
        for answer, places in answers_of(batch, example).items():
            ids = batch.sequences[places[0][0]].tolist()
            shown = tokenizer.decode(ids[: places[0][1] + 1])
            assert shown.startswith("Review: a fairly long")
            assert shown.endswith("\nSentiment:")
            assert [t for _, _, t in places] == tokenizer((" bad", words)[answer])["input_ids"]


def test_only_the_text_is_cut_for_a_masked_model(tiny_bert):
    tokenizer = tiny_bert.tokenizer
    task = task_of(records(text=FILLER + "{i}"), prompt="so: {text} It was{label}, they say.")
    batch = task.batch(tiny_bert, "search", 0)
    for sequence in batch.sequences:
        assert tiny_bert.max_length - 4 <= len(sequence) <= tiny_bert.max_length
        shown = tokenizer.decode(sequence)
        assert "so: a fairly long" in shown
        assert tokenizer.mask_token in shown
        assert shown.replace(" ", "").endswith(f",theysay.{tokenizer.sep_token}")


def test_a_text_that_fits_is_left_whole(tiny_gpt2):
    text = "a lamp by the sea"
    exact = len(tiny_gpt2.tokenizer(f"{text} It was")["input_ids"]) + max(
        len(tiny_gpt2.tokenizer(words)["input_ids"]) for words in LABELS.values()
    )
    examples = records(text=text)
    whole = task_of(examples).batch(tiny_gpt2, "search", 0)
    assert task_of(examples, max_length=exact).batch(tiny_gpt2, "search", 0).fingerprint() == whole.fingerprint()
    assert task_of(examples, max_length=exact - 1).batch(tiny_gpt2, "search", 0).tokens < whole.tokens


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_bert"])
def test_a_prompt_longer_than_the_context_is_refused(name, request):
    model = request.getfixturevalue(name)
    task = task_of(prompt=FILLER + "{text} It was")
    message = rf"prompt is too long: .* \d+ tokens, the limit is {model.max_length}; the template is '.{{59}}…'$"
    with pytest.raises(ValueError, match=message) as caught:
        task.batch(model, "search", 0)
    assert len(str(caught.value)) < 200  # a template may be pages


def test_a_prompt_shows_other_columns(tiny_gpt2):
    rows = [{**row, "pair": f"pair {k}"} for k, row in enumerate(records())]
    batch = task_of(rows, prompt="{pair}: {text} It was").batch(tiny_gpt2, "search", 0)
    shown = [tiny_gpt2.tokenizer.decode(sequence) for sequence in batch.sequences]
    assert {text.partition(":")[0] for text in shown} == {"pair 0", "pair 1", "pair 6", "pair 7"}  # the search split
    with pytest.raises(ValueError, match="nothere"):
        task_of(rows, prompt="{nothere}: {text} It was").examples("search")


def test_examples_in_two_splits_are_told():
    rows = [{"text": f"t{k}", "label": ("neg", "pos")[k % 2], "split": "search"} for k in range(6)]
    with pytest.warns(UserWarning, match="the dev split shares 2 of its 2 examples with the search split"):
        task_of(rows + [{**row, "split": "dev"} for row in rows[:2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task_of(rows + [{**row, "text": "other", "split": "dev"} for row in rows[:2]])


def test_a_label_of_the_dev_split_is_checked_before_there_is_a_search():
    rows = [{"text": f"t{k}", "label": ("neg", "pos")[k % 2], "split": "search"} for k in range(6)]
    with pytest.raises(ValueError, match=r"example 7 has the label 'what'"):
        task_of([*rows, {"text": "x", "label": "what", "split": "dev"}])


# Bad input.


def test_labels_with_the_same_tokens_are_refused(tiny_gpt2, tiny_bert):
    with pytest.raises(ValueError, match=r"' good' and ' good' have the same tokens \[\d+"):
        task_of(labels={"neg": " good", "pos": " good"}).batch(tiny_gpt2, "search", 0)
    # This vocabulary is in lower case.
    with pytest.raises(ValueError, match="' Good' and 'good' have the same tokens"):
        task_of(labels={"neg": " Good", "pos": "good"}).batch(tiny_bert, "search", 0)


def test_a_causal_model_needs_the_label_at_the_end(tiny_gpt2):
    with pytest.raises(ValueError, match=r"must stand at the end of the prompt, got '\{text\} It was\{label\}\.'"):
        task_of(prompt="{text} It was{label}.").batch(tiny_gpt2, "search", 0)


def test_a_masked_label_needs_a_mask_token(tiny_gpt2, tiny_bert):
    model = dataclasses.replace(tiny_bert, tokenizer=tiny_gpt2.tokenizer)
    with pytest.raises(ValueError, match="no mask token"):
        task_of().batch(model, "search", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": "txt"}, "no column 'txt'; it has text, label, split .*mean 'text'"),
        ({"label": "sentiment"}, "no column 'sentiment'; it has text, label, split"),
        ({"split": "part"}, "no column 'part'"),
        ({"split": "label"}, "column 'label' must say search, dev, test, got 'neg'"),
        ({"prompt": "It was"}, r"must contain \{text\} exactly once"),
        ({"labels": {"negs": " bad", "pos": " good"}}, "label 'neg', which .* it has negs, pos .*mean 'negs'"),
        ({"labels": {"neg": " bad"}}, "at least two classes are needed, labels has 1"),
        ({"labels": {"neg": " bad", "pos": " "}}, "every class needs words"),
        ({"labels": [("neg", " bad"), ("neg", " worse"), ("pos", " good")]}, "names a class twice"),
        ({"labels": [" bad", " good"]}, "must map each class to the words"),
        ({"search_size": 0}, "search_size must be an integer of at least 1"),
        ({"test_size": 1.5}, "test_size must be .* got 1.5"),
        ({"dev_size": True}, "dev_size must be"),
        (
            {"search_size": 1},
            "search_size must be from 2, one of each class, to 4, .* inline has .* search split; got 1",
        ),
        ({"search_size": 5}, "search_size must be from 2, .* to 4, .*; got 5"),
        ({"max_length": 0}, "max_length must be an integer of at least 1, or None, got 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(change, message):
    with pytest.raises(ValueError, match=message):
        task_of(**change)


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="serach_size"):
        task_of(serach_size=3)


def test_one_class_and_no_examples_are_refused():
    with pytest.raises(ValueError, match=r"search split of inline has a single class, 'pos': .* at least two"):
        task_of([row for row in records() if row["label"] == "pos"])
    with pytest.raises(ValueError, match="test split is empty: inline"):
        task_of([row for row in records() if row["split"] != "test"]).examples("test")
