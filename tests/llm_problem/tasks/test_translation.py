"""Translation: what is read and scored, and the same numbers from stock transformers and sacrebleu."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

import llm_problem as lp
from llm_problem.tasks import Translation
from llm_problem.tasks.overlap import corpus_scores
from tests.llm_problem.subspace_examples import EXAMPLES
from tests.llm_problem.tasks import scorers
from tests.llm_problem.tasks.written_by_hand import loss_by_hand, texts_by_hand

PAIRS = [
    ("a man sleeps", "ein Mann schläft"),
    ("two dogs run", "zwei Hunde rennen"),
    ("a red car", "ein rotes Auto"),
]
PROMPT = "English: {source}\nGerman:"
LAST = lp.subspaces.LoRAXS(2, layers=1)
HYPOTHESES = ["ein Mann schläft auf dem Sofa", "zwei große Hunde rennen durch das Gras", "ein Auto", "", "eine Frau"]
REFERENCES = ["ein Mann schläft auf einem Sofa", "zwei Hunde rennen durch das Gras", "ein rotes Auto", "es", "ein Kind"]


def records(splits=("search", "dev", "test")):
    return [{"en": en, "de": de, "split": s} for s in splits for en, de in PAIRS]


def task_of(rows=None, **options):
    options = {"source": "en", "target": "de", "split": "split", "max_new_tokens": 10, "prompt": PROMPT, **options}
    return Translation.from_records(records() if rows is None else rows, **options)


@pytest.fixture(scope="module")
def problem(tiny_gpt2):
    return lp.Problem(tiny_gpt2, task_of(), LAST)


@pytest.mark.parametrize("family", ["tiny-gpt2", "gpt_neox", "t5", "marian"])
def test_loss_and_scores_are_those_of_the_stock_model(family, small_model, tiny_gpt2):
    loaded = tiny_gpt2 if family == "tiny-gpt2" else small_model(family)
    problem = lp.Problem(loaded, task_of(), LAST)
    prompts = [PROMPT.format(source=en) for en, _ in PAIRS]
    found = problem.metrics(problem.x0)
    expected = loss_by_hand(loaded, [(prompt, de) for prompt, (_, de) in zip(prompts, PAIRS, strict=True)])
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    texts = texts_by_hand(loaded, prompts, 10)
    assert problem.outputs(problem.x0, "test").outputs == texts
    references = [[de for _, de in PAIRS]]
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(texts, references).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(texts, references).score, abs=1e-9)
    assert found["1-bleu"] == 1 - found["bleu"] / 100 and found["1-chrf"] == 1 - found["chrf"] / 100


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3, 4], [2], [1, 1, 0], [4, 3]])
def test_scores_of_some_sentences_are_those_that_sacrebleu_gives_them(numbers):
    scores = corpus_scores(HYPOTHESES, REFERENCES)
    texts, references = ([some[k] for k in numbers] for some in (HYPOTHESES, REFERENCES))
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        expected = metric.corpus_score(texts, [references]).score
        assert scores[name](np.array(numbers)) == pytest.approx(expected, abs=1e-9)


def test_the_end_of_a_reference_counts_where_it_is_not_left_out(tiny_gpt2):
    pairs = [(PROMPT.format(source=en), de) for en, de in PAIRS]
    for options, after in (({"score_end": False}, ""), ({"stop": ()}, tiny_gpt2.tokenizer.eos_token)):
        problem = lp.Problem(tiny_gpt2, task_of(**options), LAST)
        assert problem(problem.x0) == pytest.approx(loss_by_hand(tiny_gpt2, pairs, after=after), abs=1e-5)


def test_the_loss_has_the_gradient_that_differences_show(small_pair):
    problem = lp.Problem(small_pair("gpt2", dtype=torch.float64), task_of(), LAST, evaluator="serial")
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    _, gradient = problem.value_and_grad(x)
    step = 1e-4 * np.eye(problem.dimension)
    differences = (problem.evaluate(x + step) - problem.evaluate(x - step)) / 2e-4
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-8)


def test_a_little_of_the_loss_breaks_the_ties_of_a_plateau(tiny_gpt2, problem, points):
    plain = lp.Problem(tiny_gpt2, task_of(), LAST, objective="1-bleu")
    mixed = lp.Problem(tiny_gpt2, task_of(), LAST, objective="1-bleu", regularisation={"loss": 1e-3})
    X = points(4, problem.dimension)
    loss, found = problem.evaluate(X), mixed.evaluate(X)
    np.testing.assert_allclose(found, plain.evaluate(X) + 1e-3 * loss, atol=1e-9)
    assert len(set(found)) == 4
    assert mixed.fingerprint != plain.fingerprint
    with pytest.raises(RuntimeError, match=r"1-bleu, loss has no gradient here"):
        mixed.value_and_grad(X[0])


def test_minibatches_are_of_the_texts_too(tiny_gpt2, points):
    problem = lp.Problem(tiny_gpt2, task_of(), LAST, objectives=("1-chrf", "loss"), minibatch=2)
    X = points(2, problem.dimension)
    F = np.stack([problem.evaluate_all(X, sample=k)[0] for k in range(6)])
    assert len({F[k].tobytes() for k in range(6)}) > 1
    np.testing.assert_array_equal(problem.evaluate_all(X, sample=1)[0], F[1])
    np.testing.assert_array_equal(problem.evaluate_all(X[1:], sample=1)[0], F[1, 1:])


def test_metrics_may_leave_out_the_texts_and_intervals_have_them(problem):
    assert set(problem.metrics(problem.x0, "dev", generate=False)) == {"loss", "examples", "tokens"}
    found, metrics = problem.estimate(problem.x0, "dev", draws=50), problem.metrics(problem.x0, "dev")
    assert set(found) == {"loss", "bleu", "chrf", "1-bleu", "1-chrf"}
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(metrics[name], abs=1e-9)
        assert estimate.low <= estimate.value + 1e-9 and estimate.value - 1e-9 <= estimate.high
    assert problem.compare(problem.x0, np.ones(problem.dimension), "dev", draws=50)["chrf"].higher_is_better


def test_a_broken_model_has_no_scores(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, task_of(), LAST, objectives=("1-bleu", "loss"))
    broken = np.full(problem.dimension, 1e200)
    F, _, status = problem.evaluate_all([broken, problem.x0, np.full(problem.dimension, np.nan)])
    assert np.isnan(F[0, 0]) and np.isfinite(F[1]).all() and np.isnan(F[2]).all()
    assert status.tolist() == ["non-finite", "ok", "non-finite"]
    with pytest.raises(ValueError, match="predictions at this x are not numbers"):
        problem.outputs(broken)


def test_the_card_has_the_signatures(tiny_gpt2):
    card = lp.Problem(tiny_gpt2, task_of(), LAST, objective="1-chrf").card()
    assert card["signatures"]["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert card["signatures"]["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
    assert json.loads(json.dumps(card)) == card


def test_estimates_and_comparisons_say_how_a_score_is_made(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, task_of(bleu_tokenizer="char", scorer=scorers.misses), LAST)
    before, after = problem.x0, np.ones(problem.dimension)
    for found in (problem.estimate(before, draws=20), problem.compare(before, after, draws=20)):
        assert "tok:char" in found["bleu"].signature and found["chrf"].signature.startswith("nrefs:1|")
        assert all(found[name].signature == found[f"1-{name}"].signature for name in ("bleu", "chrf"))
        assert found["score"].signature.startswith("tests.llm_problem.tasks.scorers:misses sha256:")
        assert found["loss"].signature == ""


@pytest.mark.parametrize(("given", "asked_of_sacrebleu"), [("zh", "zh"), ("char", "char"), ("none", "none")])
def test_bleu_counts_the_words_of_the_tokenizer_that_is_asked_for(given, asked_of_sacrebleu, tiny_gpt2):
    texts, references = ["猫坐在垫子上。", "a man sleeps, here"], ["猫坐在椅子上。", "a man sleeps here"]
    scores = corpus_scores(texts, references, given)["bleu"](np.arange(2))
    expected = BLEU(tokenize=asked_of_sacrebleu).corpus_score(texts, [references]).score
    assert scores == pytest.approx(expected, abs=1e-9)
    assert scores != pytest.approx(BLEU().corpus_score(texts, [references]).score, abs=1e-3)
    task = task_of(bleu_tokenizer=given)
    assert f"tok:{given}" in lp.Problem(tiny_gpt2, task, LAST).card()["signatures"]["bleu"]
    assert "bleu_tokenizer" not in lp.Problem(tiny_gpt2, task_of(), LAST).spec.to_dict()["task"]  # as ever


def test_a_scorer_of_ones_own_goes_with_translations(tiny_gpt2):
    task = task_of(scorer=scorers.misses)
    problem = lp.Problem(tiny_gpt2, task, LAST, objectives=("score", "loss", "1-bleu"))
    looked = problem.outputs(problem.x0, "search")
    expected = np.mean(scorers.misses(looked.prompts, looked.outputs, [right for (right,) in looked.references]))
    assert problem.evaluate_all(problem.x0[None])[0][0, 0] == pytest.approx(expected)
    assert {"score", "bleu", "chrf", "loss"} <= set(problem.metrics(problem.x0, "dev"))
    assert lp.ProblemSpec.from_json(problem.spec.to_json()).task == task


def test_without_sacrebleu_the_loss_works_and_scores_say_what_to_install(problem, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sacrebleu"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert np.isfinite(problem(problem.x0))
    assert "signatures" not in problem.card()
    with pytest.raises(ImportError, match=r"pip install 'llm-problem\[translation\]'"):
        problem.metrics(problem.x0)


def test_looking_at_outputs(problem):
    whole, two = problem.outputs(problem.x0), problem.outputs(problem.x0, size=2)
    assert [part[:2] for part in whole] == list(two)
    assert whole.references == [(de,) for _, de in PAIRS]
    for size in (0, True, 1.5):
        with pytest.raises(ValueError, match="size must be an integer of at least 1, or None"):
            problem.outputs(problem.x0, size=size)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"de": "  "}, {}, "inline, example 2: column 'de' is empty"),
        ({"en": ""}, {}, "inline, example 2: column 'en' is empty"),
        ({}, {"prompt": "Translate:"}, "the prompt must show a column"),
        ({}, {"prompt": "Translate {en}:"}, r"the prompt must show \{source\}, and it shows \{en\}"),
        ({}, {"prompt": "{source} {register}"}, "example 1 has no column 'register'"),
        ({}, {"prompt": "{source"}, "the prompt cannot be read"),
        ({}, {"target": "fr"}, "has no column 'fr'; it has en, de, split"),
        ({}, {"chat": "yes"}, "chat must be True, False or options .*, got 'yes'"),
        ({}, {"bleu_tokenizer": "flores200"}, "bleu_tokenizer must be one of 13a, intl, zh"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(change, options, message):
    rows = records()
    rows[1].update(change)
    with pytest.raises(ValueError, match=message):
        task_of(rows, **options)


def test_a_chat_template_goes_around_the_prompt(small_pair):
    model, tokenizer = small_pair("llama")
    with pytest.raises(ValueError, match="has no chat template: leave chat out"):
        lp.Problem((model, tokenizer), task_of(chat=True), LAST)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<a>{% endif %}"
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    problem = lp.Problem((model, tokenizer), task_of(chat=True, prompt="{source}"), LAST)
    shown = [f"<user>{en}</s><a>" for en, _ in PAIRS]
    assert problem.outputs(problem.x0).prompts == shown
    loaded = lp.models.load_model((model, tokenizer))
    pairs = [(prompt, de) for prompt, (_, de) in zip(shown, PAIRS, strict=True)]
    assert problem(problem.x0) == pytest.approx(loss_by_hand(loaded, pairs, before="", after="</s>"), abs=1e-5)


@pytest.mark.parametrize("kind", ["soft-prompt", "prefix"])
def test_moved_prompts_stand_before_what_is_read(kind, small_model):
    task = task_of(prompt="{source} =", max_new_tokens=6)
    problem = lp.Problem(small_model("llama"), task, EXAMPLES[kind], objectives=("1-chrf", "loss"))
    front, moved = EXAMPLES[kind].text, 2 * np.random.default_rng(0).standard_normal(problem.dimension)
    plain = lp.Problem(small_model("llama"), task_of(prompt=front + "{source} =", max_new_tokens=6), LAST)
    found = problem.outputs(problem.x0)
    assert found.prompts == [f"{en} =" for en, _ in PAIRS]
    assert found.outputs == plain.outputs(plain.x0).outputs  # where x moves nothing, the text is there
    assert problem.outputs(moved).outputs != found.outputs


def test_a_list_of_references_is_refused_with_its_row():
    rows = [{"en": "a", "de": "b", "split": "search"}, {"en": "c", "de": ["d", "e"], "split": "dev"}]
    with pytest.raises(ValueError, match=r"example 2: column 'de' has a list.*give one of them"):
        task_of(rows)
