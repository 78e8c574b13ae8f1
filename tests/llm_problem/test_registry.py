"""Problems by name: true names, near names, instances."""

import dataclasses
import re

import numpy as np
import pytest

import llm_problem as lp
from llm_problem import registry

ID = "tiny-gpt2-prose-lora-xs-d32-v1"
TINY, SMOLLM2 = lp.list_problems("tiny-*"), lp.list_problems("smollm2-*")


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))


def dimension_in(id):
    return int(re.search(r"-d(\d+)-v\d+$", id)[1])


@pytest.mark.parametrize("id", TINY)
def test_the_dimension_in_a_name_is_true(id):
    problem = lp.make(id)
    assert problem.dimension == dimension_in(id)
    assert problem.name == problem.spec.id == id
    assert id.startswith(problem.spec.model + "-")
    assert np.isfinite(problem(problem.x0))


@pytest.mark.parametrize("id", SMOLLM2)
def test_the_dimension_in_a_name_is_true_of_smollm2_problems(smollm2, id):
    problem = lp.make(id)
    assert problem.dimension == dimension_in(id)
    assert problem.model is smollm2.model


def test_all_problems_have_a_model_of_their_own_name():
    assert sorted(TINY + SMOLLM2) == lp.list_problems()
    assert TINY
    assert SMOLLM2


def test_patterns_pick_from_the_list():
    assert ID in lp.list_problems("*prose*d32*")
    assert lp.list_problems(ID) == [ID]
    assert lp.list_problems("nothing*") == []
    assert lp.list_problems() == sorted(lp.list_problems())


def test_listing_and_describing_load_no_model(monkeypatch):
    monkeypatch.setattr("llm_problem.models.loading._load", lambda *args: pytest.fail("a model was loaded"))
    for id in lp.list_problems():
        assert lp.get_spec(id).id == id


def test_an_instance_is_part_of_the_name_and_another_draw():
    assert lp.get_spec(f"{ID}@3") == lp.get_spec(ID, instance=3) == lp.get_spec(ID, instance=np.int64(3))
    assert lp.get_spec(f"{ID}@0") == lp.get_spec(ID)
    assert lp.get_spec(f"{ID}@3").fingerprint("m") != lp.get_spec(ID).fingerprint("m")
    problems = [lp.make(ID), lp.make(f"{ID}@1"), lp.make(ID, instance=1)]
    assert [problem.name for problem in problems] == [ID, f"{ID}@1", f"{ID}@1"]
    assert problems[1](problems[1].x0) == problems[2](problems[2].x0) != problems[0](problems[0].x0)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("tiny-gpt2-prose-loraxs-d32-v1", f"unknown problem 'tiny-gpt2-prose-loraxs-d32-v1'; did you mean {ID}"),
        (ID.upper(), "unknown problem"),
        ("", "unknown problem ''; `llm-problem list` shows all"),
        ("../../etc/passwd", "unknown problem"),
        (f"{ID}@", "one non-negative integer behind the @"),
        (f"{ID}@-1", "one non-negative integer behind the @"),
        (f"{ID}@1@2", "one non-negative integer behind the @"),
        (f"{ID}@1.5", "one non-negative integer behind the @"),
    ],
)
def test_an_unknown_name_gets_the_nearest(id, message):
    for ask in (lp.get_spec, lp.make):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask(id)


@pytest.mark.parametrize("instance", [-1, 1.0, True, "1", None])
def test_an_instance_is_a_non_negative_integer(instance):
    with pytest.raises(ValueError, match="instance must be a non-negative integer"):
        lp.get_spec(ID, instance=instance)


def test_an_instance_is_not_said_twice():
    with pytest.raises(ValueError, match="the instance in"):
        lp.get_spec(f"{ID}@1", instance=2)


def test_what_is_no_name_is_refused():
    with pytest.raises(TypeError, match=r"must be a string, got ProblemSpec; a spec goes to Problem\.from_spec"):
        lp.make(lp.get_spec(ID))


def test_ones_own_problem_gets_a_name(clean_registry):
    mine = "my_lab/tiny-gpt2-essay-lora-xs-d8-v1"
    calls = []

    def describe():
        calls.append(1)
        return dataclasses.replace(lp.get_spec(ID), subspace=lp.subspaces.LoRAXS(rank=2, layers=1))

    lp.register(mine, describe)
    assert not calls
    assert mine in lp.list_problems("my_lab/*")
    assert lp.make(mine).dimension == 8
    assert lp.make(mine).name == mine


def test_a_description_is_as_good_as_a_function(clean_registry):
    spec = dataclasses.replace(lp.get_spec(ID), subspace=lp.subspaces.LoRAXS(rank=2, layers=1))
    lp.register("tiny-gpt2-essay-lora-xs-d8-v1", spec)
    assert lp.get_spec("tiny-gpt2-essay-lora-xs-d8-v1@2").seed == spec.seed + 2
    assert lp.make("tiny-gpt2-essay-lora-xs-d8-v1").dimension == 8
    for wrong in ("tiny-gpt2", None, spec.to_dict(), lp.make(ID)):
        with pytest.raises(TypeError, match="a ProblemSpec, or a function that makes one, was expected, got"):
            lp.register("tiny-gpt2-essay-lora-xs-d9-v1", wrong)
    assert lp.list_problems("*essay-lora-xs-d9*") == []


@pytest.mark.parametrize(
    "id",
    [
        "short",
        "a-b-c-d4",
        "a-b-c-v1",
        "a-b-c-d4-v1 ",
        "A-b-c-d4-v1",
        "x/y/a-b-d4-v1",
        "../a-b-c-d4-v1",
        "a--d4-v1",
        "a@1",
    ],
)
def test_an_id_of_another_form_is_refused(clean_registry, id):
    with pytest.raises(ValueError, match=re.escape(f"d<dimension>-v<version>, got {id!r}")):
        lp.register(id, lambda: lp.get_spec(ID))


def test_a_name_is_given_once(clean_registry):
    with pytest.raises(ValueError, match="registered already: a problem whose numbers change gets a new version"):
        lp.register(ID, lambda: lp.get_spec(ID))
