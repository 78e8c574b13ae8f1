"""Drift against stock transformers' own logits, and what it is whatever the model and the point."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import kl_div

import llm_problem as lp
from llm_problem.drift import divergence
from llm_problem.tasks import Data
from llm_problem.tasks.neutral import neutral_batch

PROSE = Data.of("embedded:prose")
TASK = lp.tasks.LanguageModelling(PROSE, window=16, search_size=2, dev_size=2, test_size=2)
LABELS = lp.tasks.Classification(
    "embedded:sentiment",
    text="text",
    label="label",
    prompt="{text} It was",
    labels={"negative": " bad", "positive": " good"},
    split="split",
    search_size=4,
)


def stock_drift(problem, x, sequences, places):
    """Mean KL(p0 ‖ px) in float64 of the stock model's own logits at places of sequences."""

    def log_probs():
        rows = []
        with torch.no_grad():
            for ids, where in zip(sequences, places, strict=True):
                logits = problem.model(input_ids=torch.as_tensor(ids)[None]).logits[0]
                rows.append(torch.log_softmax(logits[where].double(), dim=-1))
        return torch.cat(rows)

    before = log_probs()
    with problem.evaluator.changed(x[None]):
        after = log_probs()
    return float(kl_div(after, before, reduction="none", log_target=True).sum(dim=-1).mean())


def causal_windows(loaded):
    """Eight windows of 32 tokens evenly over the essay, read in the middle and at the end."""
    ids = loaded.tokenizer(PROSE.text(), add_special_tokens=False, verbose=False)["input_ids"]
    starts = [k * (len(ids) - 32) // 7 for k in range(8)]
    return [ids[start : start + 32] for start in starts], [[15, 31]] * 8


def check_causal(loaded, task):
    problem = lp.Problem(loaded, task, lp.subspaces.LoRAXS(4, layers=2), objective="drift")
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    expected = stock_drift(problem, x, *causal_windows(loaded))
    assert expected > 1e-3
    assert problem(x) == pytest.approx(expected, rel=1e-4)
    assert problem(problem.x0) == pytest.approx(0, abs=1e-9)


def test_it_is_the_divergence_of_a_causal_models_own_predictions(tiny_gpt2):
    check_causal(tiny_gpt2, TASK)


def test_it_is_the_divergence_of_a_real_models_own_predictions(smollm2):
    check_causal(smollm2, LABELS)


def test_it_is_the_divergence_of_a_masked_models_own_predictions(tiny_bert):
    problem = lp.Problem(tiny_bert, TASK, lp.subspaces.LoRAXS(4, layers=2), objective="drift")
    batch = neutral_batch(tiny_bert, PROSE)
    mask = tiny_bert.tokenizer.mask_token_id
    places = [np.flatnonzero(sequence == mask).tolist() for sequence in batch.sequences]
    assert [len(where) for where in places] == [2] * 8
    assert len({tuple(where) for where in places}) > 1
    assert {sequence.size for sequence in batch.sequences} == {32}
    assert all(sequence[0] == tiny_bert.tokenizer.cls_token_id for sequence in batch.sequences)
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    assert problem(x) == pytest.approx(stock_drift(problem, x, batch.sequences, places), rel=1e-4)
    assert problem(problem.x0) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_an_encoder_decoder_is_read_where_it_begins_to_write(small_pair, label_task, family):
    model, tokenizer = pair = small_pair(family)
    problem = lp.Problem(pair, label_task, lp.subspaces.LoRAXS(2), objective="drift")
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    bare = tokenizer(PROSE.text(), add_special_tokens=False, verbose=False)["input_ids"]
    size = 31  # and </s>
    sources = [[*bare[k * (len(bare) - size) // 7 :][:size], 2] for k in range(8)]
    start = torch.tensor([[model.config.decoder_start_token_id]])

    def log_probs():
        with torch.no_grad():
            logits = [model(input_ids=torch.tensor([ids]), decoder_input_ids=start).logits[0] for ids in sources]
        return torch.log_softmax(torch.cat(logits).double(), dim=-1)  # (8, V)

    before = log_probs()
    with problem.evaluator.changed(x[None]):
        after = log_probs()
    expected = float(kl_div(after, before, reduction="none", log_target=True).sum(dim=-1).mean())
    assert expected > 1e-4
    assert problem(x) == pytest.approx(expected, rel=1e-3)
    assert problem(problem.x0) == pytest.approx(0, abs=1e-9)


@pytest.fixture(scope="module")
def problem(tiny_gpt2):
    return lp.Problem(tiny_gpt2, TASK, lp.subspaces.LoRAXS(4, layers=1), objective="drift")


@given(exponent=st.floats(-6, 2), seed=st.integers(0, 2**32 - 1))
def test_it_is_never_negative(problem, exponent, seed):
    x = 10**exponent * np.random.default_rng(seed).standard_normal(problem.dimension)
    assert problem(x) >= 0


def test_a_value_does_not_depend_on_its_population(problem, points):
    X = points(70, problem.dimension)
    X[5] = np.nan
    together = problem.evaluate(X)
    alone = np.array([problem.evaluate(x[None])[0] for x in X])
    np.testing.assert_array_equal(together, alone)
    assert np.isnan(together[5]) and np.isfinite(np.delete(together, 5)).all()
    assert problem.evaluate(X[:0]).shape == (0,)


@pytest.mark.parametrize("evaluator", ["serial", "replay"])
def test_evaluators_agree(tiny_gpt2, problem, points, evaluator):
    other = lp.Problem(
        tiny_gpt2, TASK, lp.subspaces.LoRAXS(4, layers=1), objectives=("norm", "drift"), evaluator=evaluator
    )
    X = points(4, problem.dimension)
    F, _, _ = other.evaluate_all(X)
    np.testing.assert_allclose(F[:, 1], problem.evaluate(X), rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(F[:, 0], (X**2).sum(axis=1) / X.shape[1], rtol=1e-12)


def test_seed_and_instance_do_not_change_the_yardstick(tiny_bert):
    texts = [
        neutral_batch(tiny_bert, PROSE).fingerprint(),
        *(
            lp.Problem(tiny_bert, TASK, lp.subspaces.LoRAXS(2, layers=1), objective="drift", seed=seed)
            ._batches.neutral()
            .fingerprint()
            for seed in (0, 3)
        ),
    ]
    assert len(set(texts)) == 1


def test_another_writer_of_weights_moves_the_start_with_them(small_pair, text_task):
    pair = small_pair("llama")
    problem = lp.Problem(pair, text_task, lp.subspaces.LoRAXS(2, layers=1), objective="drift")
    x = np.full(problem.dimension, 0.5)
    before = problem(x)
    with torch.no_grad():
        pair[0].get_output_embeddings().weight.mul_(2.0)
    assert problem(problem.x0) == pytest.approx(0, abs=1e-9)
    assert problem(x) != before


def test_own_text(tiny_gpt2, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Plain words about nothing in particular, said again and again. " * 60)
    options = {"objective": "drift", "neutral_text": path}
    problem = lp.Problem("tiny-gpt2", TASK, lp.subspaces.LoRAXS(4, layers=1), **options)
    default = lp.Problem("tiny-gpt2", TASK, lp.subspaces.LoRAXS(4, layers=1), objective="drift")
    x = np.random.default_rng(1).standard_normal(problem.dimension)
    assert problem(x) > 0
    assert problem(x) != default(x)
    assert problem.fingerprint != default.fingerprint
    assert problem.card()["neutral_text"].startswith("mine.txt (sha256 ")
    twin = lp.Problem.from_spec(lp.ProblemSpec.from_json(problem.spec.to_json()))
    assert twin(x) == problem(x)
    path.write_text("Something else. " * 200)
    with pytest.raises(ValueError, match=r"mine\.txt has changed"):
        lp.Problem.from_spec(problem.spec)


def test_a_text_in_memory_is_a_record(tiny_gpt2):
    words = "Plain words about nothing in particular, said again and again. " * 60
    problem = lp.Problem(
        tiny_gpt2, TASK, lp.subspaces.LoRAXS(4, layers=1), objective="drift", neutral_text=[{"text": words}]
    )
    assert problem(np.ones(problem.dimension)) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a few words only", r"short\.txt has \d+ tokens: drift is read in 8 windows of 32, so at least 256"),
        (None, r"cannot read the data file .*short\.txt"),
    ],
)
def test_a_text_that_does_not_do_is_refused(tiny_gpt2, tmp_path, text, message):
    path = tmp_path / "short.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        lp.Problem(tiny_gpt2, TASK, lp.subspaces.LoRAXS(4, layers=1), constraints={"drift": 1}, neutral_text=path)


def test_a_text_that_is_too_short_is_refused_by_a_face_too(tiny_gpt2, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("a few words only")
    problem = lp.Problem(tiny_gpt2, TASK, lp.subspaces.LoRAXS(4, layers=1), neutral_text=path)
    assert np.isfinite(problem(problem.x0))  # which needs no text
    with pytest.raises(ValueError, match="at least 256"):
        problem.to_pymoo(objectives=("loss", "drift"))


def test_records_of_another_form_are_refused(tiny_gpt2):
    with pytest.raises(ValueError, match="a single record with the column 'text'"):
        neutral_batch(tiny_gpt2, Data.of([{"words": "one two"}]))


def test_divergence_by_hand():
    p0 = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    p = torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]], dtype=torch.float64)
    expected = (0.5 * np.log(2) + (0.25 * np.log(0.5) + 0.5 * np.log(2))) / 2
    assert float(divergence(p0.log(), p0, p.log())) == pytest.approx(expected, rel=1e-12)
    assert float(divergence(p0.log(), p0, p.log() + 1e-3)) == pytest.approx(expected, rel=1e-12)  # normalised again
    ruled_out = torch.tensor([[0.5, 0.0, 0.5], [0.5, 0.25, 0.25]], dtype=torch.float64)
    assert float(divergence(p0.log(), p0, ruled_out.log())) == np.inf
    nan = torch.full((2, 3), torch.nan, dtype=torch.float64)
    assert np.isnan(float(divergence(p0.log(), p0, nan)))
