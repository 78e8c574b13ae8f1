"""Who is compared computes the same loss, each in its own way."""

import sys

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.benchmarks.contestants import DOCUMENT, EXPERT, OURS, POPULATION, field_of, gemms
from llm_problem.benchmarks.document_loop import DocumentLoop, log_probs
from llm_problem.benchmarks.expert_loop import ExpertLoop, NotForExpertsError, tuned_batch_size
from llm_problem.benchmarks.settings import Settings
from llm_problem.benchmarks.timing import race

SETTINGS = Settings(model="tiny-gpt2", sentences=6, windows=3)


def one_token_task():
    """Two classes whose words are one token of tiny-gpt2 each."""
    records = [{"text": t, "label": label} for t, label in (("it was so", "a"), ("and then they all went", "b")) * 3]
    return lp.tasks.Classification.from_records(
        [{**r, "split": s, "text": f"{r['text']} {k}"} for s in ("search", "dev") for k, r in enumerate(records)],
        text="text",
        label="label",
        prompt="{text}:",
        labels={"a": "a", "b": "b"},
        split="split",
    )


TASKS = {"label words": SETTINGS.label_task, "one token": one_token_task, "text": SETTINGS.text_task}


@pytest.fixture(params=TASKS)
def problem(request):
    return SETTINGS.problem(TASKS[request.param](), 2)


def points(problem, n=3):
    return np.random.default_rng(5).standard_normal((n, problem.dimension))


def test_document_loop_has_the_reference_losses(problem):
    loop = DocumentLoop(problem)
    assert [loop(x) for x in points(problem)] == pytest.approx(list(problem.evaluate(points(problem))), abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_expert_loop_has_the_reference_losses_and_changes_with_x(problem, size):
    pytest.importorskip("peft")
    loop = ExpertLoop(problem, size)
    found = [loop(x) for x in points(problem)]
    assert found == pytest.approx(list(problem.evaluate(points(problem))), abs=1e-5)
    assert np.ptp(found) > 1e-3
    assert loop(problem.x0) == pytest.approx(problem(problem.x0), abs=1e-5)  # nothing is left of the x before


def test_expert_loop_multiplies_label_rows_only_where_that_is_enough():
    pytest.importorskip("peft")
    found = {name: ExpertLoop(SETTINGS.problem(task(), 1), 2).words_only for name, task in TASKS.items()}
    assert found == {"label words": False, "one token": True, "text": False}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox", "opt"])
def test_both_loops_on_other_families(family, small_pair, label_task):
    pytest.importorskip("peft")
    problem = lp.Problem(small_pair(family), label_task, lp.subspaces.LoRAXS(2, layers=2))
    (x,) = points(problem, 1)
    assert DocumentLoop(problem)(x) == pytest.approx(problem(x), abs=1e-5)
    assert ExpertLoop(problem, 3)(x) == pytest.approx(problem(x), abs=1e-5)


def test_loops_leave_the_problem_s_model_alone(model_state):
    pytest.importorskip("peft")
    problem = SETTINGS.problem(SETTINGS.label_task(), 1)
    before, settings = model_state(problem.model), problem.model.config.to_dict()
    for loop in (DocumentLoop(problem), ExpertLoop(problem, 2)):
        loop(points(problem, 1)[0])
    assert model_state(problem.model) == before
    assert problem.model.config.to_dict() == settings


def test_expert_loop_shares_the_pretrained_weights():
    pytest.importorskip("peft")
    problem = SETTINGS.problem(SETTINGS.label_task(), 1)
    own = {p.data_ptr() for p in problem.model.parameters()}
    theirs = dict(ExpertLoop(problem, 2).model.named_parameters())
    assert own <= {p.data_ptr() for p in theirs.values()}
    assert sorted(name.split(".")[-3] for name in theirs if "lora" in name) == ["lora_A", "lora_B"]


def test_tuned_batch_size_is_one_of_those_tried():
    pytest.importorskip("peft")
    loop = ExpertLoop(SETTINGS.problem(SETTINGS.text_task(), 1), 1)
    assert tuned_batch_size(loop, sizes=(2, 64), tries=1) in (2, 3)  # there are three sequences


def test_expert_loop_refuses_masked_models_and_changes_that_are_not_low_rank():
    pytest.importorskip("peft")
    with pytest.raises(NotForExpertsError, match="causal"):
        ExpertLoop(Settings(model="tiny-bert").problem(SETTINGS.text_task(), 1), 2)
    full = lp.Problem("tiny-gpt2", SETTINGS.text_task(), lp.subspaces.RandomSubspace(4, layers=1))
    with pytest.raises(NotForExpertsError, match="low-rank"):
        ExpertLoop(full, 2)


def test_without_peft_the_column_is_left_out_with_a_note(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    found = field_of(SETTINGS.problem(SETTINGS.label_task(), 1), 4)
    assert [c.name for c in found.contestants] == [DOCUMENT, OURS, POPULATION]
    assert any("pip install peft" in note for note in found.notes)


def test_gemms_are_read_where_the_evaluator_lists_them():
    class Lists:
        def gemms(self, batch):
            return [(2, batch.tokens, 8, np.int64(4))]

    class Listing:
        evaluator = Lists()

        def batch(self, split):
            return SETTINGS.problem(SETTINGS.label_task(), 1).batch(split)

    (found,) = gemms(Listing())
    assert found == (2, Listing().batch("search").tokens, 8, 4) and type(found[3]) is int
    assert gemms(SETTINGS.problem(SETTINGS.label_task(), 1, evaluator="serial")) is None


def test_log_probs_are_log_softmax():
    logits = 5 * torch.randn(7, 5000, generator=torch.Generator().manual_seed(0))
    token = torch.arange(7)
    expected = torch.log_softmax(logits.double(), dim=-1)[torch.arange(7), token]
    torch.testing.assert_close(log_probs(logits, token), expected, atol=1e-6, rtol=0)


def test_contestants_agree_on_a_real_model(smollm2):
    pytest.importorskip("peft")
    settings = Settings(sentences=4)
    found = field_of(settings.problem(settings.label_task(), 2), population=2, expert_batch=2)
    assert [c.name for c in found.contestants] == [DOCUMENT, EXPERT, OURS, POPULATION]
    outcome = race(found.contestants, found.problem.dimension, rounds=1, least=0.0)
    assert 0 < outcome.losses_apart < 1e-5
    assert outcome.ratio(DOCUMENT, OURS)[0] > 1
