"""Question answering: what is read, what is refused, and the same numbers from stock transformers."""

import json

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.tasks import QuestionAnswering
from llm_problem.tasks.question_answering import answers_in
from llm_problem.tasks.squad import exact_match, f1
from tests.llm_problem.tasks.written_by_hand import loss_by_hand, texts_by_hand

ROWS = [
    ("fish live in the sea", "where do fish live", ["the sea", "sea"]),
    ("the old cat slept all day", "who slept", ["the old cat"]),
    ("rain fell on the town", "what fell", ["rain"]),
]
PROMPT = "{context}\nQ: {question}\nA:"
LAST = lp.subspaces.LoRAXS(2, layers=1)


def records(rows=ROWS, splits=("search", "dev", "test")):
    return [{"p": p, "q": q, "a": a, "split": s} for s in splits for p, q, a in rows]


def task_of(rows=None, **options):
    options = {"context": "p", "question": "q", "answers": "a", "split": "split", "max_new_tokens": 8, **options}
    return QuestionAnswering.from_records(records() if rows is None else rows, **{"prompt": PROMPT, **options})


@pytest.mark.parametrize("family", ["tiny-gpt2", "llama", "t5", "marian"])
def test_loss_and_scores_are_those_of_the_stock_model(family, small_model, tiny_gpt2):
    loaded = tiny_gpt2 if family == "tiny-gpt2" else small_model(family)
    problem = lp.Problem(loaded, task_of(), LAST)
    prompts = [PROMPT.format(context=p, question=q) for p, q, _ in ROWS]
    expected = loss_by_hand(
        loaded, [(prompt, answers[0]) for prompt, (_, _, answers) in zip(prompts, ROWS, strict=True)]
    )
    found = problem.metrics(problem.x0)
    assert problem(problem.x0) == pytest.approx(expected, abs=1e-5)
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    looked = problem.outputs(problem.x0, "test")
    assert looked.outputs == texts_by_hand(loaded, prompts, 8)
    assert looked.prompts == prompts
    assert looked.references == [tuple(answers) for _, _, answers in ROWS]


def test_text_scores_are_means_of_the_best_over_the_answers(tiny_gpt2):
    task = task_of()
    batch = task.batch(tiny_gpt2, "dev", 0)
    texts = ["in the Sea.", "a cat, old", "snow"]
    corpus = task.score_texts(texts, batch)
    everything = corpus(np.arange(3))
    assert everything["exact_match"] == 0
    assert everything["f1"] == pytest.approx((2 * (1 / 2) / (3 / 2) + 1 + 0) / 3)
    assert everything["1-f1"] == 1 - everything["f1"] and everything["1-em"] == 1
    assert corpus(np.array([1, 1]))["f1"] == 1


def test_a_scorer_is_shown_all_answers(tiny_gpt2):
    seen = []

    def score(prompts, outputs, references):
        seen.append(references)
        return [float(len(text)) for text in outputs]

    problem = lp.Problem(tiny_gpt2, task_of(scorer=score), LAST, objectives=("score", "1-f1"))
    F, _, _ = problem.evaluate_all(problem.x0[None])
    assert F[0, 0] == np.mean([len(text) for text in problem.outputs(problem.x0, "search").outputs])
    assert seen == [[answers for _, _, answers in ROWS]]
    signed = problem.estimate(problem.x0, "dev", draws=20)
    for name in ("f1", "exact_match", "1-f1", "1-em"):
        assert (rules := signed[name].signature).startswith("SQuAD v1.1") and str(signed[name]).endswith(f"({rules})")
    assert signed["loss"].signature == "" and str(signed["loss"]).endswith("]")


def test_objectives_are_the_metrics_and_draw_each_text_once(tiny_gpt2, monkeypatch):
    problem = lp.Problem(tiny_gpt2, task_of(), LAST, objectives=("1-f1", "loss", "1-em"), constraints={"1-f1": 0.5})
    calls, right = [], problem._written.texts
    monkeypatch.setattr(problem._written, "texts", lambda x, batch: calls.append(1) or right(x, batch))
    X = np.random.default_rng(0).standard_normal((2, problem.dimension))
    F, G, status = problem.evaluate_all(X)
    assert len(calls) == 2
    for x, row in zip(X, F, strict=True):
        found = problem.metrics(x, "search")
        np.testing.assert_allclose(row, [found["1-f1"], found["loss"], found["1-em"]], atol=1e-6)
        texts = problem.outputs(x, "search")
        pairs = list(zip(texts.outputs, texts.references, strict=True))
        assert found["f1"] == np.mean([max(f1(text, right) for right in rights) for text, rights in pairs])
        assert found["exact_match"] == np.mean(
            [max(exact_match(text, right) for right in rights) for text, rights in pairs]
        )
    np.testing.assert_array_equal(G[:, 0], F[:, 0] - 0.5)
    assert status.tolist() == ["ok", "ok"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("the sea", ("the sea",)),
        (["the sea", "sea", "sea"], ("the sea", "sea")),
        ('["sea"]', ("sea",)),
        ({"text": ["sea"], "answer_start": [17]}, ("sea",)),
        ("live", ("live",)),
    ],
)
def test_answers_in_every_form(given, expected):
    task = task_of([{"p": "fish live in the sea", "q": "where", "a": given, "split": s} for s in ("search", "dev")])
    assert task.examples("dev")[0].references == expected


@pytest.mark.parametrize("answer", ["1984", "[sic]", "[1]", '{"a": 1}'])
def test_an_answer_that_looks_like_json_is_itself(answer):
    task = task_of([{"p": f"so {answer} it is", "q": "what", "a": answer, "split": "search"}])
    assert task.examples("search")[0].references == (answer,)


def test_files_hold_lists_as_json(tmp_path):
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in records()), encoding="utf-8")
    named = {"context": "p", "question": "q", "answers": "a", "split": "split", "prompt": PROMPT}
    assert QuestionAnswering.from_jsonl(path, **named).examples("dev") == [
        lp.tasks.batch.Asked(e.prompt, e.references, f"qa.jsonl, example {k}")
        for k, e in enumerate(task_of().examples("dev"), start=4)
    ]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"a": "the lake"}, {}, r"inline, example 2: the answer 'the lake' does not stand in its passage"),
        ({"a": ""}, {}, "example 2: column 'a' has no answer, or an empty one"),
        ({"a": []}, {}, "example 2: column 'a' has no answer"),
        ({}, {"prompt": "{context}"}, r"the prompt must show \{question\}, and it shows \{context\}"),
        ({}, {"prompt": "{question}"}, r"the prompt must show \{context\}"),
        ({}, {"prompt": "{context} {question} {hint}"}, "example 1 has no column 'hint'; it has p, q, a, split"),
        ({}, {"answers": "answer"}, "has no column 'answer'"),
        ({}, {"search_size": 9}, "search_size is 9, and inline has 3 examples for it"),
        ({}, {"stop": ("",)}, "stop must be strings"),
        ({}, {"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(change, options, message):
    rows = records()
    rows[1].update(change)
    with pytest.raises(ValueError, match=message):
        task_of(rows, **options)


def test_an_answer_need_not_stand_in_the_passage_where_that_is_said():
    rows = [{**row, "a": "the lake"} for row in records()]
    assert task_of(rows, answer_in_context=False).examples("dev")[0].references == ("the lake",)
    without = task_of(rows, context=None, prompt="{question}?")
    assert without.examples("dev")[0].prompt == "where do fish live?"


def test_questions_about_one_passage_stay_in_one_split():
    rows = [{"p": f"passage {k % 40}", "q": f"question {k}", "a": "passage"} for k in range(400)]
    task = task_of(rows, split=None)
    passages = [{asked.prompt.split("\n")[0] for asked in task.examples(split)} for split in ("search", "dev", "test")]
    assert sum(map(len, passages)) == len(set.union(*passages)) == 40
    assert len(set(task.batch(lp.models.load_model("tiny-gpt2"), "search", 0).group)) == len(passages[0])


def test_a_sequence_longer_than_the_context_is_refused_with_its_row(small_model):
    rows = records()
    rows[1]["p"] += " and then the whole of the next day and of the one after that"
    with pytest.raises(ValueError, match=r"inline, example 2: prompt and reference have .* and the limit is 64"):
        lp.Problem(small_model("llama"), task_of(rows), LAST)
    with pytest.raises(ValueError, match=r"example 1: prompt and reference have .* and the limit is 10"):
        lp.Problem(small_model("llama"), task_of(max_length=10), LAST)


def test_encoder_only_models_are_refused():
    with pytest.raises(
        ValueError, match="tiny-bert is an encoder-only model, which writes no text: question-answering"
    ):
        lp.Problem("tiny-bert", task_of(), LAST)


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ('{"text": "1894"}', ("1894",)),
        ('{"text": ["1894", "in 1894"], "answer_start": [3]}', ("1894", "in 1894")),
        ("[1894]", ("[1894]",)),
        ("1894", ("1894",)),
        ('["1894", null]', ("1894", "")),  # the empty one is refused with its row
    ],
)
def test_answers_are_read_from_every_form(value, answers):
    assert answers_in(value) == answers


def test_passages_in_two_splits_are_told():
    rows = [{"p": "It is red.", "q": f"Is it? {k}", "a": "red", "split": s} for k, s in enumerate(("search", "dev"))]
    with pytest.warns(UserWarning, match="the dev split shares 1 of its groups with the search split"):
        task_of(rows)
