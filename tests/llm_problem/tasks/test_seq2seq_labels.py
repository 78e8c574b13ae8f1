"""Classification with an encoder-decoder model: the prompt is the source, the label words are the target."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.tasks.tokens import cut_text, encode_bare, encode_target

FAMILIES = ["t5", "mt5", "marian"]
START, END, SPACE = 1, 2, 225  # <pad>, </s>, and Ġ, the 221st of the sorted bytes, after five special tokens


def ids(text):
    """Tokens of printable ASCII: "!" is the first of the sorted bytes."""
    return [SPACE if char == " " else 5 + ord(char) - ord("!") for char in text]


def task_of(labels, prompt="{text} is", texts=("hi", "so"), **options):
    rows = [{"text": text, "label": name} for text, name in zip(texts, labels, strict=False)]
    options = {"text": "text", "label": "label", "dev": rows, "test": rows, **options}
    return lp.tasks.Classification.from_records(rows + rows, prompt=prompt, labels=labels, **options)


def batch_of(small_model, labels, family="t5", **options):
    task = task_of(labels, **options)
    return task.batch(small_model(family), "dev", 0)


def test_classes_of_one_token_share_the_start_token_alone(small_model):
    batch = batch_of(small_model, {"neg": " n", "pos": "p "})
    assert [s.tolist() for s in batch.sources] == [[*ids("hi is"), END], [*ids("so is"), END]]
    assert [s.tolist() for s in batch.sequences] == [[START], [START]]
    assert batch.source.tolist() == [0, 1]
    assert batch.sequence.tolist() == [0, 0, 1, 1]
    assert batch.position.tolist() == [0, 0, 0, 0]
    assert batch.token.tolist() == ids("np") * 2
    assert batch.answer.tolist() == [0, 1, 0, 1]
    assert batch.label.tolist() == [0, 1]
    assert batch.contrast


def test_a_class_of_several_tokens_has_a_target_of_its_own(small_model):
    batch = batch_of(small_model, {"neg": "bad", "pos": "p", "mid": "so"}, texts=("hi", "so", "x y"))
    assert [s.tolist() for s in batch.sources[2:]] == [[*ids("x y is"), END]]
    assert [s.tolist() for s in batch.sequences] == [[START, *ids("ba")], [START], [START, *ids("s")]] * 3
    assert batch.source.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert batch.token[:6].tolist() == ids("badpso")
    assert batch.position[:6].tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.sequence[:6].tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.answer[:6].tolist() == [0, 0, 0, 1, 2, 2]
    assert not batch.contrast


@pytest.mark.parametrize("prompt", ["so: {text} is", "so: {text} is{label}", "so: {text} is {label}"])
def test_the_source_does_not_end_with_the_space_before_the_label(small_model, prompt):
    batch = batch_of(small_model, {"neg": " n", "pos": " p"}, prompt=prompt)
    assert batch.sources[0].tolist() == [*ids("so: hi is"), END]


@pytest.mark.parametrize("limit", [None, 20])
def test_only_the_text_is_cut(small_model, limit):
    text = "0123456789" * 9
    batch = batch_of(small_model, {"neg": "n", "pos": "p"}, texts=(text, "so"), prompt="a {text} is", max_length=limit)
    shown = text[: (limit or 64) - len("a  is") - 1]  # the context is 64 tokens; </s> needs one
    assert batch.sources[0].tolist() == [*ids(f"a {shown} is"), END]
    assert len(batch.sources[0]) == (limit or 64)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ({"neg": "n", "pos": "p"}, {"prompt": "{text} is {label}."}, "the label must stand at the end of the prompt"),
        ({"neg": "n", "pos": " n "}, {}, "have the same tokens"),
        ({"neg": "n", "pos": "p" * 65}, {}, "the longest label has 65 tokens, the limit is 64"),
        ({"neg": "n", "pos": "p"}, {"prompt": "x" * 64 + "{text}"}, "prompt is too long: .* the limit is 64"),
    ],
)
def test_what_does_not_fit_is_refused(small_model, labels, options, message):
    with pytest.raises(ValueError, match=message):
        batch_of(small_model, labels, **options)


def test_language_modelling_is_refused_with_what_works(small_model, text_task):
    with pytest.raises(ValueError, match=r"t5-.* is an encoder-decoder model.* use a causal or masked model, or Class"):
        lp.Problem(small_model("t5"), text_task, lp.subspaces.LoRAXS(2, layers=1))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_loss_is_that_of_the_stock_models_own_labels(family, small_model, label_task):
    loaded = small_model(family)
    problem = lp.Problem(loaded, label_task, lp.subspaces.LoRAXS(2, layers=1))
    losses = []
    for text, right in label_task.examples("search"):
        source = loaded.tokenizer(f"{text} is", return_tensors="pt")["input_ids"]
        scores = []
        for words in ("bad", "good"):
            target = loaded.tokenizer(words, add_special_tokens=False, return_tensors="pt")["input_ids"]
            scores.append(-float(loaded.model(input_ids=source, labels=target).loss) * target.shape[1])
        losses.append(np.logaddexp(*scores) - scores[right])
    assert problem(problem.x0) == pytest.approx(np.mean(losses), abs=1e-5)
    assert problem.card()["search_tokens"] == problem.batch("search").tokens


# Tokenizers as Marian has them: in plain Python, with other pieces for targets.


class SlowTokenizer:
    """One token a word, words of three letters are two; a target's tokens are negative."""

    is_fast = False

    def __call__(self, text=None, text_target=None, add_special_tokens=True, verbose=True):
        sign = 1 if text_target is None else -1
        words = (text if text_target is None else text_target).split()
        return {
            "input_ids": [sign * len(w) for w in words for _ in range(1 + (len(w) == 3))] + [0] * add_special_tokens
        }


def test_targets_are_encoded_as_targets():
    assert encode_target(SlowTokenizer(), "not so good") == [-3, -3, -2, -4]
    assert encode_bare(SlowTokenizer(), "not so good") == [3, 3, 2, 4]


@pytest.mark.parametrize(
    ("tokens", "shown"), [(0, ""), (1, "so "), (2, "so th"), (3, "so the "), (4, "so the moon"), (9, "so the moon")]
)
def test_a_tokenizer_without_offsets_cuts_where_the_tokens_still_fit(tokens, shown):
    # The number of tokens is not monotonic: "so the moo" has five, "so the moon" four.
    assert cut_text(SlowTokenizer(), "so the moon", tokens) == shown
