"""Which evaluator a problem gets, and what it says of that."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import EVALUATORS, ReplayEvaluator, choose_evaluator
from llm_problem.models import load_model

SUBSPACE = lp.subspaces.LoRAXS(2, layers=1)


@pytest.fixture
def asked(small_model, label_task):
    """A function: name of an evaluator → (evaluator, why) on a small model."""
    loaded = small_model("llama")
    bound, batch = SUBSPACE.bind(loaded, 0), label_task.batch(loaded, "search", 0)
    return lambda wanted: choose_evaluator(loaded, bound, batch, wanted)


@pytest.mark.parametrize(
    ("wanted", "name", "why"),
    [("auto", "replay", "agrees"), ("replay", "replay", "asked"), ("serial", "serial", "asked")],
)
def test_choice_says_what_and_why(wanted, name, why, asked):
    evaluator, reason = asked(wanted)
    assert evaluator.name == name
    assert why in reason


def test_unknown_name_is_refused_with_the_names_there_are(asked):
    with pytest.raises(ValueError, match=r"auto, serial, replay, got 'fast'"):
        asked("fast")
    assert EVALUATORS == ("auto", "serial", "replay")


@pytest.mark.parametrize("wrong", ["always", "from memory"])
def test_an_evaluator_that_is_wrong_is_found_out(wrong, asked, monkeypatch):
    right, calls = ReplayEvaluator._chunk, []

    def chunk(self, *args):
        calls.append(args)
        return right(self, *args) * (1.1 if wrong == "always" or len(calls) > 1 else 1.0)

    monkeypatch.setattr(ReplayEvaluator, "_chunk", chunk)
    evaluator, reason = asked("auto")
    assert evaluator.name == "serial"
    assert "differs from the serial one by" in reason
    with pytest.raises(ValueError, match="cannot do this model"):
        asked("replay")


def test_values_that_are_not_finite_on_one_side_only_are_found_out(asked, monkeypatch):
    right = ReplayEvaluator._chunk
    monkeypatch.setattr(ReplayEvaluator, "_chunk", lambda self, *args: right(self, *args) * np.nan)
    assert asked("auto")[0].name == "serial"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_pair_of_any_precision_gets_an_evaluator(dtype, small_pair, label_task):
    problem = lp.Problem(small_pair("gpt2", dtype=dtype), label_task, SUBSPACE)
    assert np.isfinite(problem(problem.x0))


def test_two_examples_are_enough_to_choose(small_pair, label_task):
    loaded = load_model(small_pair("bert"))
    batch = label_task.batch(loaded, "search", 0).take([1])
    assert choose_evaluator(loaded, SUBSPACE.bind(loaded, 0), batch, "auto")[0].name == "replay"
