"""What is saved loads elsewhere with the loss it had here; tests/adapters/test_round_trips.py has every kind."""

import copy

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.models import load_model

MODULES = ("q_proj", "v_proj", "o_proj")
TASKS = {
    "tiny-gpt2": lambda: lp.tasks.LanguageModelling.from_string(
        "one two three four five " * 200, window=16, search_size=4
    ),
    "tiny-bert": lambda: lp.tasks.LanguageModelling.from_string(
        "one two three four five " * 200, window=16, search_size=4
    ),
}


def problem_on(model, subspace):
    return lp.Problem(model, TASKS.get(model, TASKS["tiny-gpt2"])(), subspace)


def loss_of(model, problem):
    """The search loss of another model object, by the reference evaluator."""
    other = lp.Problem(
        (model, problem.tokenizer), problem.spec.task, lp.subspaces.LoRAXS(1, layers=1), evaluator="serial"
    )
    return other(other.x0)


@pytest.mark.parametrize(
    "subspace",
    [lp.subspaces.LoRAXS(rank=3, layers=2, modules=MODULES), lp.subspaces.Scales(layers=2)],
    ids=lambda subspace: subspace.kind,
)
@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-bert"])
def test_adapter_loads_in_peft_with_the_same_loss(model, subspace, tmp_path):
    peft = pytest.importorskip("peft")
    problem = problem_on(model, subspace)
    x = np.random.default_rng(1).standard_normal(problem.dimension)
    problem.save_adapter(x, tmp_path / "adapter")
    base = copy.deepcopy(problem.model)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert loss_of(adapted.merge_and_unload(), problem) == pytest.approx(problem(x), abs=1e-5)
    assert problem(x) != pytest.approx(problem(problem.x0), abs=1e-3)


@pytest.mark.parametrize(
    "subspace",
    [lp.subspaces.LoRA(2, layers=1), lp.subspaces.RandomSubspace(5, layers=1), lp.subspaces.FullVector()],
    ids=lambda subspace: subspace.kind,
)
@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-bert"])
def test_saved_model_loads_in_plain_transformers_with_the_same_loss(model, subspace, tmp_path):
    problem = problem_on(model, subspace)
    x = np.random.default_rng(2).standard_normal(problem.dimension)
    problem.save_model(x, tmp_path / "model")
    reloaded = load_model(tmp_path / "model")
    assert loss_of(reloaded.model, problem) == pytest.approx(problem(x), abs=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_saving_leaves_the_model_as_it_was(tmp_path):
    problem = problem_on("tiny-gpt2", lp.subspaces.LoRAXS(2, layers=1))
    before = {name: tensor.clone() for name, tensor in problem.model.state_dict().items()}
    problem.save_model(np.ones(problem.dimension), tmp_path / "model")
    assert all(torch.equal(tensor, before[name]) for name, tensor in problem.model.state_dict().items())


def test_adapter_of_a_subspace_that_is_not_low_rank_is_refused_with_the_way_that_works(tmp_path):
    problem = problem_on("tiny-gpt2", lp.subspaces.RandomSubspace(5, layers=1))
    with pytest.raises(ValueError, match="save_model"):
        problem.save_adapter(problem.x0, tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_bad_points_are_refused(tmp_path):
    problem = problem_on("tiny-gpt2", lp.subspaces.LoRAXS(2, layers=1))
    (tmp_path / "taken").mkdir()
    for save in (problem.save_adapter, problem.save_model):
        with pytest.raises(FileExistsError, match="not overwritten"):
            save(problem.x0, tmp_path / "taken")
        with pytest.raises(ValueError, match=r"shape \(n, 8\)|finite"):
            save(np.full(problem.dimension, np.nan), tmp_path / "new")
        with pytest.raises(ValueError, match=r"changes that are not finite in float32: its largest number is 1e\+39"):
            save(np.full(problem.dimension, 1e39), tmp_path / "new")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
