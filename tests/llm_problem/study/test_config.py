"""Study files: what they mean, and what is refused with which words."""

import dataclasses
import json
import re

import pytest

import llm_problem as lp
from llm_problem.study import Competitor, Policy, Study

A, B = "tiny-gpt2-prose-lora-xs-d32-v1", "tiny-gpt2-agreement-tiny-lora-d8-v1"
GOOD = {"optimizers": ["cma", "random-search"], "problems": [A], "seeds": [1, 2], "budget": 10}


def study(**changes):
    return Study.from_dict({**GOOD, **changes})


def test_a_file_is_read_as_it_says(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        f"""
optimizers = ["random-search", {{name = "cma", label = "cma, λ = 8", options = {{popsize = 8}}}}]
problems = ["{A}", "{B}@3"]
instances = [0, 1]
seeds = 3
budget = 50
[policy]
restarts = true
batch_size = 4
"""
    )
    found = Study.from_toml(path)
    assert found.name == "mine"
    assert found.optimizers == (
        Competitor("random-search", "random-search"), Competitor("cma", "cma, λ = 8", {"popsize": 8})
    )  # fmt: skip
    assert [entry.name for entry in found.problems] == [A, f"{A}@1", f"{B}@3"]
    assert (found.seeds, found.budget, found.runs) == ((1, 2, 3), 50, 18)
    assert found.policy == Policy(restarts=True, batch_size=4)
    assert "begun again" in found.policy.sentence() and "4 for all" in found.policy.sentence()


def test_a_study_survives_json():
    found = study(instances=[0, 2], policy={"start_at_x0": False})
    assert Study.from_json_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_problems_come_by_pattern_suite_model_and_description(tmp_path):
    spec = dataclasses.replace(lp.get_spec(A), id=None)
    (tmp_path / "mine.json").write_text(spec.to_json())
    found = Study.from_dict(
        {
            **GOOD,
            "problems": [
                "tiny-bert-agreement-*",
                {"suite": "tiny", "pattern": "*continuation*"},
                {"model": "tiny-gpt2", "pattern": "*prose-lora-xs-d32*"},
                {"spec": "mine.json"},
            ],
        },
        folder=tmp_path,
    )
    assert [entry.name for entry in found.problems] == [
        "tiny-bert-agreement-random-d10-v1", "tiny-bert-agreement-vera-d48-v1",
        "tiny-gpt2-continuation-prefix-d24-v1", "tiny-gpt2-continuation-sparse-projection-d100-v1",
        "own/tiny-gpt2-prose-lora-xs-d32-v1", "mine",
    ]  # fmt: skip
    assert found.problems[-1].spec.fingerprint("m") == spec.fingerprint("m")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimisers": ["cma"]}, "unknown key of a study 'optimisers': did you mean optimizers?"),
        ({"budget": 0}, "budget must be an integer of at least 1, got 0"),
        ({"budget": 1.5}, "budget must be an integer of at least 1, got 1.5"),
        ({"budget": True}, "budget must be an integer"),
        ({"seeds": [1, 2, 1]}, "the number in seeds 1 is listed twice"),
        ({"seeds": 0}, "seeds must be an integer of at least 1"),
        ({"seeds": []}, "seeds must be a list of integers"),
        ({"seeds": [-1]}, "seeds must be integers of at least 0, got -1"),
        ({"problems": [A.replace("lora-xs", "lora-sx")]}, f"did you mean {A}"),
        ({"problems": [A, A]}, f"the problem '{A}' is listed twice"),
        ({"problems": ["huge-*"]}, "no problem matches 'huge-*'"),
        ({"problems": []}, "problems must be a list"),
        ({"problems": [{"suit": "tiny"}]}, "a table with one of suite, model and spec"),
        ({"problems": [{"suite": "tinny"}]}, "unknown suite 'tinny': did you mean tiny?"),
        ({"problems": [{"suite": "tiny", "patern": "*"}]}, "unknown key of a problem 'patern': did you mean pattern?"),
        ({"problems": [{"spec": "absent.json"}]}, "cannot read the problem's description"),
        ({"optimizers": ["cma", "cma"]}, "the optimizer 'cma' is listed twice; give one of them a label"),
        ({"optimizers": "cma"}, "optimizers must be a list"),
        (
            {"optimizers": [{"name": "cma", "option": {}}]},
            "unknown key of an optimizer 'option': did you mean options?",
        ),
        ({"optimizers": [{"name": "cma", "label": "a\x1b[2J"}]}, "printable characters"),
        ({"policy": {"restart": True}}, "unknown key of a study's policy 'restart': did you mean restarts"),
        ({"policy": {"restarts": 1}}, "restarts must be true or false"),
        ({"policy": {"threads": 0}}, "threads must be an integer of at least 1"),
        ({"instances": [-1]}, "instances must be integers of at least 0"),
        ({"name": "../up"}, "name must be of 1 to 80"),
        ({"name": ".."}, "name must be of 1 to 80"),
        ({"problems": [{"model": "tiny-gtp2"}]}, "unknown model 'tiny-gtp2': not a directory, not a hub id"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        study(**changes)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_what_is_needed_is_named(missing):
    with pytest.raises(ValueError, match=f"'{missing}' is missing"):
        Study.from_dict({key: value for key, value in GOOD.items() if key != missing})


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the study file"):
        Study.from_toml(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("budget = = 1")
    with pytest.raises(ValueError, match="is no TOML file"):
        Study.from_toml(tmp_path / "bad.toml")
