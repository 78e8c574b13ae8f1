"""Multiple choice: what is read, how it is normalised, and the same numbers from stock transformers."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llm_problem as lp
from llm_problem.tasks import MultipleChoice
from llm_problem.tasks.columns import ColumnPrompt

PROMPT = "Question: {question}\nAnswer:"
ROWS = [
    ("where do fish live", ["in the sea", "up a tree", "Köln"], 0),
    ("what falls in winter", ["sand", "snow that melts later"], 1),
    ("who mends shoes", ["a baker", "a cobbler of the old school", "nobody", "fish"], 1),
    ("which is cold", ["ice", "fire"], 0),
    ("what can fly", ["stone", "bird", "lamp"], 1),
    ("what is wet", ["rain", "dust"], 0),
]


def rows(split=None):
    splits = [split] if split else ["search", "dev", "test"]
    return [
        {"question": q, "choices": choices, "answer": right, "split": s} for s in splits for q, choices, right in ROWS
    ]


def task_of(records=None, **options):
    options = {"prompt": PROMPT, "choices": "choices", "answer": "answer", "split": "split", **options}
    return MultipleChoice.from_records(rows() if records is None else records, **options)


def by_hand(loaded, length=len, normalised=False):
    """loss, accuracy and accuracy-norm of the rows, choice by choice through the stock model."""
    model, tokenizer = loaded.model, loaded.tokenizer
    losses, plain, norm = [], [], []
    for question, choices, right in ROWS:
        prompt, sums = PROMPT.format(question=question), []
        for choice in choices:
            if model.config.is_encoder_decoder:
                source = tokenizer(prompt, return_tensors="pt")["input_ids"]
                target = tokenizer(choice, add_special_tokens=False)["input_ids"]
                given_to = torch.tensor([[model.config.decoder_start_token_id, *target[:-1]]])
                logits = model(input_ids=source, decoder_input_ids=given_to).logits[0]
            else:
                start = len(tokenizer(prompt)["input_ids"])
                ids = tokenizer(f"{prompt} {choice}")["input_ids"]
                target = ids[start:]
                logits = model(input_ids=torch.tensor([ids])).logits[0, start - 1 : -1]
            log_p = logits.double().log_softmax(-1)
            sums.append(float(log_p[range(len(target)), target].sum()))
        per_length = [total / length(choice) for total, choice in zip(sums, choices, strict=True)]
        plain.append(int(np.argmax(sums)) == right)
        norm.append(int(np.argmax(per_length)) == right)
        scores = per_length if normalised else sums
        losses.append(-scores[right] + math.log(sum(math.exp(s - max(scores)) for s in scores)) + max(scores))
    return np.mean(losses), np.mean(plain), np.mean(norm)


@pytest.mark.parametrize("family", ["tiny-gpt2", "llama", "t5"])
@pytest.mark.parametrize(
    ("options", "length"),
    [({}, len), ({"normalised": True}, len), ({"normalised": True, "length": "bytes"}, lambda s: len(s.encode()))],
)
@torch.no_grad()
def test_scores_are_those_of_the_stock_model(family, options, length, small_model, tiny_gpt2):
    loaded = tiny_gpt2 if family == "tiny-gpt2" else small_model(family)
    problem = lp.Problem(loaded, task_of(**options), lp.subspaces.LoRAXS(2, layers=1))
    loss, accuracy, normalised = by_hand(loaded, length, options.get("normalised", False))
    found = problem.metrics(problem.x0, "test")
    assert problem(problem.x0) == pytest.approx(loss, abs=1e-5)
    assert found["loss"] == pytest.approx(loss, abs=1e-5)
    assert (found["accuracy"], found["accuracy-norm"]) == (accuracy, normalised)
    assert (found["error"], found["error-norm"]) == pytest.approx((1 - accuracy, 1 - normalised))
    assert found["examples"] == 6


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_fast_evaluator_agrees_with_the_reference_everywhere(family, small_model, points, narrow_chunks):
    loaded = small_model(family)
    problems = [
        lp.Problem(loaded, task_of(), lp.subspaces.LoRAXS(2, layers=2), objective=name, evaluator=evaluator)
        for name in ("loss", "error-norm")
        for evaluator in ("replay", "serial")
    ]
    X = points(4, problems[0].dimension)
    for fast, reference in (problems[:2], problems[2:]):
        assert fast.evaluate(X) == pytest.approx(reference.evaluate(X), abs=1e-5)


def test_the_gradient_is_that_of_finite_differences(small_model, points):
    problem = lp.Problem(small_model("llama"), task_of(normalised=True), lp.subspaces.LoRAXS(2, layers=1))
    x = 0.3 * points(2, problem.dimension)[1]
    value, gradient = problem.value_and_grad(x)
    assert value == pytest.approx(problem(x), abs=1e-6)
    direction = gradient / np.linalg.norm(gradient)
    slope = (problem(x + 0.01 * direction) - problem(x - 0.01 * direction)) / 0.02
    assert slope == pytest.approx(np.linalg.norm(gradient), rel=2e-2)


def test_choices_of_one_letter_share_a_sequence_and_are_only_compared(small_model):
    records = [
        {"question": f"{i} {q}", "a": "A", "b": "B", "c": "C", "answer": "ABC"[i % 3], "split": split}
        for i, (q, _, _) in enumerate(ROWS)
        for split in ("search", "test")
    ]
    task = task_of(records, choices=("a", "b", "c"), answer_form="letter", before="")
    batch = task.batch(small_model("llama"), "search", 0)
    assert len(batch.sequences) == batch.examples == 6 and batch.contrast
    assert batch.label.tolist() == [0, 1, 2, 0, 1, 2]
    # Of different lengths they are divided by, so their values must be log-probabilities.
    assert not task_of().batch(small_model("llama"), "search", 0).contrast


def test_minibatches_know_the_lengths_of_their_choices(small_model):
    problem = lp.Problem(
        small_model("llama"),
        task_of(normalised=True),
        lp.subspaces.LoRAXS(2, layers=1),
        minibatch=3,
        evaluator="serial",
    )
    whole, values = problem.batch("search"), problem.evaluator.log_probs(problem.x0[None], problem.batch("search"))[0]
    losses = problem.spec.task.example_losses(values, whole)[0]
    drawn = problem.evaluate(problem.x0[None], sample=4)[0]
    assert any(np.isclose(drawn, losses[list(t)].mean(), atol=1e-6) for t in itertools.combinations(range(6), 3))


# How rows say it.


@pytest.mark.parametrize(
    ("form", "said"), [("index", 1), ("index", "1"), ("number", 2), ("letter", "B"), ("letter", "b"), ("text", "fire")]
)
def test_each_way_to_say_the_answer(form, said):
    row = {"question": "what burns", "choices": ["ice", "fire"], "answer": said, "split": "search"}
    assert task_of([row], answer_form=form).examples("search") == [
        ("Question: what burns\nAnswer:", ("ice", "fire"), 1)
    ]


def test_csv_jsonl_and_memory_give_the_same_questions(tmp_path):
    records = rows()
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "a.txt").write_text("\n".join(map(json.dumps, records)))
    lines = [
        f'{r["question"]},"{json.dumps({"text": r["choices"], "label": [0]}).replace(chr(34), chr(34) * 2)}",'
        f"{r['answer']},{r['split']}"
        for r in records
    ]
    (tmp_path / "a.csv").write_text("question,choices,answer,split\n" + "\n".join(lines))
    options = {"prompt": PROMPT, "choices": "choices", "answer": "answer", "split": "split"}
    found = [
        MultipleChoice.from_csv(tmp_path / "a.csv", **options),
        MultipleChoice.from_csv(tmp_path / "a.jsonl", **options),
        MultipleChoice.from_jsonl(tmp_path / "a.txt", **options),
        task_of(),
        task_of([{**r, "choices": np.array(r["choices"], dtype=object)} for r in records]),
    ]
    for split in ("search", "dev", "test"):
        assert all(task.examples(split) == found[0].examples(split) for task in found)


def test_the_description_survives_json():
    spec = lp.ProblemSpec("tiny-gpt2", task_of(normalised=True, cut="question"), lp.subspaces.LoRAXS(2, layers=1))
    again = lp.ProblemSpec.from_json(spec.to_json())
    assert again == spec and again.fingerprint("m") == spec.fingerprint("m")


def test_a_split_by_hash_goes_by_what_the_prompt_shows():
    records = [{"question": f"q {i}", "choices": ["a", "b"], "answer": 0} for i in range(60)]
    one = task_of(records, split=None)
    other = task_of([{**r, "answer": 1} for r in records], split=None, prompt="Q: {question} A:")
    for split in ("search", "dev", "test"):
        numbers = [[p.split("q ")[1].split()[0] for p, *_ in task.examples(split)] for task in (one, other)]
        assert numbers[0] == [n.removesuffix("A:") for n in numbers[1]]


def test_only_the_named_column_is_cut(small_model):
    records = [{"passage": "word " * 40, "question": "why", "choices": ["yes", "no"], "answer": 0, "split": "search"}]
    options = {"prompt": "{passage}\n{question}:", "cut": "passage"}
    loaded = small_model("llama")
    batch = task_of(records, **options).batch(loaded, "search", 0)
    shown = loaded.tokenizer.decode(batch.sequences[0])
    assert max(map(len, batch.sequences)) + 1 == 64
    assert shown.startswith("word word") and "\nwhy: ye" in shown


# Bad input.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 3}, r"inline, example 1: column 'answer' says '3', which is no index of its 3 choices"),
        ({"answer": -1}, "says '-1', which is no index"),
        ({"answer": "A"}, "says 'A', which is no index .*answer_form is one of index, number, letter, text"),
        ({"choices": ["one"]}, "example 1: choices must be a list of two texts or more, got"),
        ({"choices": "not a list"}, "choices must be a list of two texts or more, got 'not a list'"),
        ({"choices": ["a", ""]}, "choices must be a list"),
        ({"choices": ["a", "b", "a"]}, "example 1 has the same choice twice"),
        ({"question": None}, "example 1 has no column 'question'"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_number(change, message):
    with pytest.raises(ValueError, match=message):
        task_of([{**rows("search")[0], **change}, *rows("search")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "no column"}, "the prompt must show a column"),
        ({"prompt": "{question!r}"}, "a column's name and nothing else"),
        ({"prompt": "{}"}, "a column's name and nothing else"),
        ({"prompt": "{question"}, r"cannot be read: .*doubled"),
        ({"prompt": "{query}"}, "no column 'query'; it has question, choices, answer, split"),
        ({"choices": ("a",)}, "two columns or more"),
        ({"choices": "options"}, "no column 'options'"),
        ({"answer_form": "word"}, "answer_form must be one of index, number, letter, text, got 'word'"),
        ({"length": "tokens"}, "length must be one of characters, bytes"),
        ({"cut": "answer"}, r"cut must be a column of the prompt \(question\), got 'answer'"),
        ({"search_size": 7}, "search_size is 7, and inline has 6 examples"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        task_of(**options)


def test_a_row_that_is_too_long_is_named(small_model):
    records = [*rows("search"), {**rows("search")[0], "question": "long " * 30}]
    with pytest.raises(ValueError, match=r"inline, example 7: the prompt is too long: it has \d+ tokens, .*cut=col"):
        task_of(records).batch(small_model("llama"), "search", 0)


def test_a_masked_model_is_refused(tiny_bert):
    with pytest.raises(ValueError, match=r"is a masked model, .*Classification works"):
        task_of().batch(tiny_bert, "search", 0)


# Prompts.


@given(st.dictionaries(st.sampled_from(["one", "two words", "3"]), st.text(), min_size=3))
def test_braces_in_the_data_are_data(row):
    prompt = ColumnPrompt("{{x}} {one}{two words}: {3}{one}")
    assert prompt.render(row) == f"{{x}} {row['one']}{row['two words']}: {row['3']}{row['one']}"
    assert prompt.columns == ("one", "two words", "3")
