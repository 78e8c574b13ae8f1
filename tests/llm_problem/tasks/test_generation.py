"""Open generation: scorers of a user's, how they are named, and what is refused."""

import copy
import functools
import json
import pickle
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.tasks import Generation, Scorer
from llm_problem.tasks import scorer as scorer_module
from llm_problem.testing import check_problem
from tests.llm_problem.tasks import scorers
from tests.llm_problem.tasks.written_by_hand import loss_by_hand, texts_by_hand

TEXTS = [("the cat", "sat on a mat"), ("one day", "it rained"), ("my friend", "came home")]
LAST = lp.subspaces.LoRAXS(2, layers=1)
ROOT = Path(__file__).parents[3]


def records():
    return [{"start": a, "end": b, "split": s} for s in ("search", "dev", "test") for a, b in TEXTS]


def task_of(rows=None, **options):
    options = {"prompt": "{start}", "split": "split", "max_new_tokens": 6, **options}
    return Generation.from_records(records() if rows is None else rows, **options)


@pytest.mark.parametrize("family", ["tiny-gpt2", "mt5"])
def test_a_scorer_sees_prompts_texts_and_references(family, small_model, tiny_gpt2):
    loaded, seen = tiny_gpt2 if family == "tiny-gpt2" else small_model(family), []

    def score(prompts, outputs, references):
        seen.append((prompts, outputs, references))
        return np.arange(3, dtype=np.float32)

    problem = lp.Problem(loaded, task_of(reference="end", scorer=score, stop=()), LAST, objectives=("score", "loss"))
    F, _, _ = problem.evaluate_all(problem.x0[None])
    prompts, references = (list(part) for part in zip(*TEXTS, strict=True))
    assert seen == [(prompts, texts_by_hand(loaded, prompts, 6, stop="\0"), references)]
    eos = loaded.tokenizer.eos_token if family == "tiny-gpt2" else ""
    np.testing.assert_allclose(F, [[1.0, loss_by_hand(loaded, TEXTS, after=eos)]], atol=1e-5)
    assert problem.metrics(problem.x0, "dev")["score"] == 1.0


@pytest.mark.parametrize("subspace", [LAST, lp.subspaces.SoftPrompt("Say it: ", 3)], ids=["lora-xs", "soft-prompt"])
def test_a_problem_of_texts_keeps_its_promises(subspace):
    check_problem(lp.Problem("tiny-gpt2", task_of(scorer=scorers.length), subspace, objective="score"))


def test_what_there_is_to_minimise_follows_from_what_is_given(tiny_gpt2):
    assert task_of(reference="end").objectives == ("loss",)
    assert task_of(scorer=scorers.length).objectives == ("score",)
    assert task_of(scorer=scorers.misses, reference="end").objectives == ("loss", "score")
    with pytest.raises(ValueError, match="unknown objective 'loss': this task offers score, drift, forgetting, norm"):
        lp.Problem(tiny_gpt2, task_of(scorer=scorers.length), LAST)
    with pytest.raises(ValueError, match="a reference column, or a scorer"):
        task_of()


def test_without_references_only_texts_are_measured(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, task_of(scorer=scorers.length), LAST, objective="score")
    lengths = [len(text) for text in problem.outputs(problem.x0, "test").outputs]
    assert problem.outputs(problem.x0).references == [()] * 3
    assert problem.metrics(problem.x0) == {"examples": 3, "score": np.mean(lengths)}
    estimate = problem.estimate(problem.x0, draws=200)
    assert set(estimate) == {"score"}
    assert estimate["score"].value == pytest.approx(np.mean(lengths))
    assert "loss" not in problem.card()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, 2.0], r"must return 3 numbers, one for each output; it returned numbers of shape \(2,\)"),
        (np.zeros((3, 1)), r"it returned numbers of shape \(3, 1\)"),
        (1.0, r"it returned numbers of shape \(\)"),
        (None, "it returned None"),
        (["a", "b", "c"], r"it returned \['a', 'b', 'c'\]"),
        ([1, [2, 3], 4], r"it returned \[1, \[2, 3\], 4\]"),
        ([1.0, float("nan"), 2.0], "it returned NaN for output 2"),
        ([1.0, float("inf"), 2.0], "it returned inf for output 2"),
        ([1j, 2.0, 3.0], r"it returned \[1j"),
        ("123", "it returned '123'"),
        (["1", "2", "3"], r"it returned \['1'"),
        ({"a": 1}, r"it returned \{'a': 1\}"),
    ],
)
def test_what_a_scorer_must_not_return(returned, message, tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, task_of(scorer=lambda p, o, r: returned), LAST, objective="score")
    with pytest.raises(ValueError, match=message):
        problem(problem.x0)


@pytest.mark.parametrize("number", [Fraction(1, 2), np.float32(0.5), True, torch.tensor(0.5), Decimal("0.5")])
def test_a_scorer_may_return_any_real_numbers(number, tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, task_of(scorer=lambda p, o, r: [number] * len(o)), LAST, objective="score")
    assert problem(problem.x0) == float(number)


def test_what_a_scorer_raises_comes_with_its_name(tiny_gpt2):
    problem = lp.Problem(tiny_gpt2, task_of(scorer=lambda outputs: [0.0]), LAST, objective="score")
    with pytest.raises(TypeError, match="positional argument") as caught:
        problem(problem.x0)
    assert "(prompts, outputs, references)" in caught.value.__notes__[0]


def test_drawn_texts_follow_from_the_seed(tiny_gpt2):
    options = {"scorer": scorers.length, "temperature": 1.2, "top_p": 0.95, "max_new_tokens": 12}
    first, again, other = (
        lp.Problem(tiny_gpt2, task_of(**options, sampling_seed=seed), LAST, objective="score") for seed in (0, 0, 1)
    )
    texts = first.outputs(first.x0)
    assert texts == again.outputs(first.x0) == first.outputs(first.x0)
    assert texts != other.outputs(first.x0)
    assert first.fingerprint == again.fingerprint != other.fingerprint


# How a description names a scorer.


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (scorers.length, "length"),
        ("tests.llm_problem.tasks.scorers:length", "length"),
        (scorers.Holder.constant, "Holder.constant"),
    ],
)
def test_a_scorer_in_a_module_survives_json_and_pickle(given, name, tiny_gpt2):
    problem = lp.Problem("tiny-gpt2", task_of(scorer=given), LAST, objective="score")
    assert problem.spec.task.scorer.function == f"tests.llm_problem.tasks.scorers:{name}"
    again = lp.ProblemSpec.from_json(problem.spec.to_json())
    assert again == problem.spec
    twin = lp.Problem.from_spec(again)
    assert twin.fingerprint == problem.fingerprint
    for other in (twin, pickle.loads(pickle.dumps(problem)), copy.deepcopy(problem)):
        assert other(problem.x0) == problem(problem.x0)


@pytest.mark.parametrize("make", [lambda: lambda p, o, r: [0] * len(o), lambda: functools.partial(scorers.length)])
def test_a_function_without_a_name_works_here_and_cannot_be_described(make, tiny_gpt2):
    problem = lp.Problem("tiny-gpt2", task_of(scorer=make()), LAST, objective="score")
    assert np.isfinite(problem(problem.x0))
    assert json.dumps(problem.card())
    another = lp.Problem("tiny-gpt2", task_of(scorer=make()), LAST, objective="score")
    assert another.fingerprint != problem.fingerprint  # two functions, though of one name
    for refused in (problem.spec.to_json, lambda: pickle.dumps(problem)):
        with pytest.raises(ValueError, match="define it with def at the top of a module"):
            refused()


def test_a_description_runs_no_code(tmp_path, monkeypatch):
    """A file may name any function; reading it, or building its problem, neither imports nor calls it."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    values = lp.Problem("tiny-gpt2", task_of(scorer=scorers.length), LAST, objective="score").spec.to_dict()
    for name in ("trap:score", "os:system", "local:<lambda>@1"):
        values["task"]["scorer"] = {"function": name, "sha256": None}
        spec = lp.ProblemSpec.from_dict(values)
        with pytest.raises(ValueError, match="a description runs no code by itself"):
            lp.Problem.from_spec(spec)
    assert "trap" not in sys.modules


def test_a_pickle_brings_its_scorer_to_a_process_that_does_not_know_it(tmp_path):
    problem = lp.Problem("tiny-gpt2", task_of(scorer=scorers.length), LAST, objective="score")
    (tmp_path / "problem.pickle").write_bytes(pickle.dumps(problem))
    (tmp_path / "spec.json").write_text(problem.spec.to_json())
    code = f"""
import pickle, pathlib
import llm_problem as lp
folder = pathlib.Path({str(tmp_path)!r})
spec = lp.ProblemSpec.from_json((folder / "spec.json").read_text())
try:
    lp.Problem.from_spec(spec)
except ValueError as error:
    assert "say lp.tasks.Scorer.of(tests.llm_problem.tasks.scorers.length) first" in str(error), error
else:
    raise AssertionError("called what nobody named")
problem = pickle.loads((folder / "problem.pickle").read_bytes())
assert problem(problem.x0) == {problem(problem.x0)!r}
assert lp.Problem.from_spec(spec)(problem.x0) == {problem(problem.x0)!r}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_scorer_that_has_changed_is_refused(monkeypatch):
    task = task_of(scorer=scorers.length)
    assert task.scorer.sha256
    monkeypatch.setitem(scorer_module._known, task.scorer.function, scorers.misses)
    with pytest.raises(ValueError, match="scorers:length has changed since this was described"):
        task.scorer.load()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("length", ValueError, "must be 'module:function', got 'length'"),
        ("tests.llm_problem.tasks.scorers:width", ValueError, "there is no scorer"),
        ("nowhere_at_all:length", ValueError, "there is no scorer 'nowhere_at_all:length'"),
        (3, TypeError, "must be a function of"),
    ],
)
def test_what_is_no_scorer(given, error, message):
    with pytest.raises(error, match=message):
        Scorer.of(given)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"end": " "}, {"reference": "end"}, "inline, example 2: the reference in column 'end' is empty"),
        ({}, {"reference": "finish"}, "has no column 'finish'"),
        ({}, {"prompt": "{begin}", "reference": "end"}, "example 1 has no column 'begin'; it has start, end, split"),
        ({}, {"prompt": "no column", "reference": "end"}, "the prompt must show a column"),
        ({}, {"reference": "end", "temperature": -1}, "temperature must be finite and not negative"),
        ({}, {"reference": "end", "top_p": 0}, "top_p must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(change, options, message):
    rows = records()
    rows[1].update(change)
    with pytest.raises(ValueError, match=message):
        task_of(rows, **options)
