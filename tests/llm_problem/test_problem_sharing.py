"""What copies, pickles and processes share of a problem, and what it lets go when it is closed."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import llm_problem as lp
from llm_problem.models import load_model

SUBSPACE = lp.subspaces.LoRAXS(2, layers=2)


@pytest.fixture(scope="module")
def problem(small_pair, label_task):
    return lp.Problem(small_pair("llama"), label_task, SUBSPACE)


@pytest.fixture(scope="module")
def folder(small_pair, tmp_path_factory):
    """A directory with a small model and its tokenizer."""
    path = tmp_path_factory.mktemp("models") / "small"
    for part in small_pair("llama"):
        part.save_pretrained(path)
    return path


@pytest.fixture
def reads(monkeypatch):
    """Each read of a causal model's weights, by its folder."""
    seen, right = [], AutoModelForCausalLM.from_pretrained.__func__

    def read(cls, where, *args, **kwargs):
        seen.append(str(where))
        return right(cls, where, *args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", classmethod(read))
    return seen


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copies_share_everything(problem, duplicate):
    twin = duplicate(problem)
    assert twin.model is problem.model
    assert twin.subspace is problem.subspace
    assert twin(twin.x0) == problem(problem.x0)
    assert duplicate({"problem": problem})["problem"].model is problem.model


def test_pickle_carries_the_description_only(folder, label_task, reads):
    problem = lp.Problem(folder, label_task, SUBSPACE, seed=3)
    data = pickle.dumps(problem)
    assert len(data) < 20_000
    twin = pickle.loads(data)
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    assert twin is not problem
    assert twin(x) == problem(x)
    assert twin.fingerprint == problem.fingerprint
    assert twin.model is problem.model
    assert len(reads) <= 1


ELSEWHERE = """
import pickle, sys, numpy, torch
torch.set_num_threads(1)
problem = pickle.load(open(sys.argv[1], "rb"))
x = numpy.random.default_rng(0).standard_normal(problem.dimension)
print(float.hex(problem(x)), problem.fingerprint)
"""


def test_a_pickle_gives_the_same_value_in_another_process(tiny_gpt2, text_task, tmp_path):
    problem = lp.Problem("tiny-gpt2", text_task, SUBSPACE)
    (tmp_path / "problem").write_bytes(pickle.dumps(problem))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "problem")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    x = np.random.default_rng(0).standard_normal(problem.dimension)
    assert done.stdout.split() == [float.hex(problem(x)), problem.fingerprint]


def test_a_problem_on_a_model_object_says_how_to_pickle_it(problem):
    with pytest.raises(
        pickle.PicklingError, match=r"save the model with save_pretrained and give the directory instead"
    ):
        pickle.dumps(problem)


def test_a_file_of_weights_is_read_once_in_a_process(folder, label_task, text_task, reads):
    # Under another name, so that other tests have not read it.
    alias = folder.with_name("alias")
    alias.mkdir()
    for file in folder.iterdir():
        (alias / file.name).write_bytes(file.read_bytes())
    problem = lp.Problem(alias, label_task, SUBSPACE)
    others = [
        lp.Problem(str(alias), text_task, lp.subspaces.RandomSubspace(3, layers=1)),
        copy.deepcopy(problem),
        pickle.loads(pickle.dumps(problem)),
    ]
    f = problem.to_nevergrad()
    copies = [f.copy() for _ in range(100)]
    for copied in copies:
        copied(copied.problem.x0)
    assert reads == [str(alias.resolve())]
    assert all(other.model is problem.model for other in others)
    assert all(copied.problem.model is problem.model for copied in copies)


def test_two_tokenizers_on_one_model_take_turns_with_it(small_pair):
    model, tokenizer = small_pair("llama")
    first, second = load_model((model, tokenizer)), load_model((model, copy.deepcopy(tokenizer)))
    assert first.model is second.model
    assert first.lock is second.lock


def test_a_closed_problem_lets_go_and_says_so(small_pair, label_task):
    problem = lp.Problem(small_pair("llama"), label_task, SUBSPACE)
    dimension, x0 = problem.dimension, problem.x0
    problem.close()
    problem.close()
    for use in (
        lambda: problem(x0),
        lambda: problem.evaluate(x0[None]),
        lambda: problem.metrics(x0),
        lambda: problem.value_and_grad(x0),
        lambda: problem.model,
        lambda: problem.to_nevergrad(),
        lambda: problem.dimension,
    ):
        with pytest.raises(RuntimeError, match="closed"):
            use()
    assert dimension == 16
    assert repr(problem) == "<Problem closed>"


def test_closing_one_problem_leaves_others_on_its_model(small_pair, label_task):
    pair = small_pair("llama")
    problem, other = (lp.Problem(pair, label_task, SUBSPACE) for _ in range(2))
    value = other(other.x0)
    problem.close()
    assert other(other.x0) == value
