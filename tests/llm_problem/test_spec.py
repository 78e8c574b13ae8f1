"""Descriptions: JSON and back, and a fingerprint over what decides f."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import llm_problem as lp
from llm_problem import ProblemSpec
from llm_problem.subspaces import SUBSPACES
from tests.llm_problem.subspace_examples import example

IDS = lp.list_problems()
CSV = "text,label\n" + "".join(f"sentence number {i},{'yes' if i % 2 else 'no'}\n" for i in range(60))


def spec_of(path, **options):
    task = lp.tasks.Classification(
        path, text="text", label="label", prompt="{text} It was", labels={"yes": " good", "no": " bad"}, search_size=8
    )
    return ProblemSpec("tiny-gpt2", task, lp.subspaces.LoRAXS(rank=4, layers=1), **options)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(CSV)
    return path


@pytest.mark.parametrize("id", IDS)
def test_every_registered_problem_survives_json(id):
    spec = lp.get_spec(id, instance=2)
    again = ProblemSpec.from_json(spec.to_json())
    assert again == spec
    assert again.to_json() == spec.to_json()
    assert again.fingerprint("m") == spec.fingerprint("m")
    assert hash(again) == hash(spec)


def test_fingerprints_of_named_problems_are_those_they_were_given():
    """Whoever changes what a version 1 is must give it a new id: these are the fingerprints of the first release."""
    assert lp.get_spec("tiny-gpt2-prose-lora-xs-d32-v1").fingerprint("m").startswith("61d950d4d142d5b3")
    assert lp.get_spec("tiny-bert-sentiment-lora-xs-d128-v1").fingerprint("m").startswith("950c2deb51672c9d")
    assert set(lp.get_spec("tiny-gpt2-prose-lora-xs-d32-v1").to_dict()["task"]["data"]) == {
        "source",
        "sha256",
        "records",
    }


def test_every_subspace_and_option_survives_json(path, tiny_gpt2):
    values = {"layers": np.int64(1), "rank": np.int64(2), "dimension": 8, "text": "Sentiment:\n"}
    for kind, cls in SUBSPACES.items():
        options = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        subspace = dataclasses.replace(example(kind, tiny_gpt2), **options)
        spec = dataclasses.replace(
            spec_of(path, objectives=("error", "loss"), seed=7, minibatch=4, dtype="bfloat16", evaluator="serial"),
            subspace=subspace,
            units=[np.float64(0.5), 2],
        )
        assert ProblemSpec.from_json(spec.to_json()) == spec


def test_records_and_lists_survive_json():
    task = lp.tasks.Classification.from_records(
        [{"t": f"text {i}", "l": i % 3} for i in range(90)],
        text="t",
        label="l",
        prompt="{text}",
        labels={0: " a", 1: " b", 2: " c"},
        search_size=np.int64(6),
    )
    spec = ProblemSpec("tiny-gpt2", task, lp.subspaces.LoRAXS(rank=2, layers=[-1, 0], modules=["v_proj"]))
    again = ProblemSpec.from_json(spec.to_json())
    assert again == spec
    assert again.task.examples("search", 1) == task.examples("search", 1)


def test_a_text_in_memory_survives_json():
    task = lp.tasks.LanguageModelling.from_string(
        "one two three four\n" * 50, window=np.int64(8), shares=[0.5, 0.3, 0.2]
    )
    spec = ProblemSpec("tiny-gpt2", task, lp.subspaces.FullVector(scale=0.5))
    assert ProblemSpec.from_json(spec.to_json()) == spec


def test_the_fingerprint_does_not_depend_on_the_folder_but_on_the_content(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "renamed.csv"
    shutil.copy(path, moved)
    fingerprint = spec_of(path).fingerprint("m")
    assert spec_of(moved).fingerprint("m") == fingerprint
    moved.write_text(CSV.replace("number 3", "number three"))
    assert spec_of(moved).fingerprint("m") != fingerprint


def test_the_fingerprint_covers_whatever_decides_f(path):
    spec = spec_of(path)
    task, replace = spec.task, dataclasses.replace
    changed = [
        replace(spec, seed=1),
        replace(spec, objectives=("error",)),
        replace(spec, minibatch=4),
        replace(spec, dtype="bfloat16"),
        replace(spec, bound=4.0),
        replace(spec, penalty=10.0),
        replace(spec, units=(1.0,)),
        replace(spec, units=(1.0, 2.0)),
        replace(spec, subspace=lp.subspaces.LoRAXS(rank=4, layers=2)),
        replace(spec, subspace=lp.subspaces.LoRAXS(rank=4, layers=1, scale=2.0)),
        replace(spec, task=replace(task, prompt="{text}  It was")),
        replace(spec, task=replace(task, labels={"yes": " great", "no": " bad"})),
        replace(spec, task=replace(task, labels={"no": " bad", "yes": " good"})),
        replace(spec, task=replace(task, search_size=10)),
        replace(spec, task=replace(task, max_length=20)),
        replace(spec, task=replace(task, group="label")),
        replace(spec, task=replace(task, shares=(0.5, 0.3, 0.2))),
        replace(spec, task=replace(task, search_size=None, shots=4)),
        replace(spec, task=replace(task, prior="N/A")),
        replace(spec, task=replace(task, prior=("N/A", ""))),
    ]
    fingerprints = {s.fingerprint("m") for s in [spec, *changed]} | {spec.fingerprint("another model")}
    assert len(fingerprints) == len(changed) + 2
    assert all(len(f) == 64 and set(f) <= set("0123456789abcdef") for f in fingerprints)


def test_options_that_came_later_are_in_a_description_only_where_they_are_used(path):
    spec = spec_of(path)
    used = dataclasses.replace(
        spec, task=dataclasses.replace(spec.task, group="label", shares=(0.5, 0.3, 0.2), prior="-")
    )
    assert not set(spec.task.added) & set(spec.to_dict()["task"])
    assert {"group", "shares", "prior"} <= set(used.to_dict()["task"])
    assert ProblemSpec.from_json(used.to_json()) == used


def test_the_fingerprint_does_not_cover_names(path):
    spec = spec_of(path)
    for other in ({"id": "a-b-c-d1-v1"}, {"instance": 3}, {"model": "/some/folder"}):
        assert dataclasses.replace(spec, **other).fingerprint("m") == spec.fingerprint("m")


def test_a_changed_file_is_refused_when_a_description_is_used_again(path):
    text = spec_of(path).to_json()
    path.write_text(CSV + "one more,yes\n")
    with pytest.raises(ValueError, match=r"mine\.csv has changed"):
        ProblemSpec.from_json(text).task.examples("search")


def changed_dict(**changes):
    values = json.loads(lp.get_spec(IDS[0]).to_json())
    for name, value in changes.items():
        values[name] = value(values.get(name)) if callable(value) else value
    return {name: value for name, value in values.items() if value is not None or name in ("minibatch", "id", "units")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 3}, "unknown keys in the problem description: seeds"),
        ({"task": lambda task: {**task, "tezt": 1}}, "unknown keys of task '.*': tezt"),
        ({"subspace": lambda subspace: {**subspace, "rang": 1}}, "unknown keys of subspace '.*': rang"),
        (
            {"task": {"kind": "poetry"}},
            "unknown task 'poetry': there are classification, generation, language-modelling",
        ),
        ({"subspace": {"rank": 3}}, "unknown subspace None: there are .*lora-xs"),
        ({"task": {"kind": "language-modelling"}}, "missing keys of task 'language-modelling': data"),
        ({"task": 3}, "task of a problem description must be a JSON object, got int"),
        ({"model": None}, "missing keys in the problem description: model"),
        ({"format": 2}, "format 1 was expected, got format 2"),
        ({"format": None}, "format 1 was expected, got format None"),
        ({"seed": -1}, "seed must be a non-negative integer, got -1"),
        ({"seed": 1.0}, "seed must be"),
        ({"objectives": ["accuracy"]}, "unknown objective 'accuracy': this task offers loss"),
        ({"objectives": []}, "at least one objective"),
        ({"minibatch": 0}, "minibatch must be an integer of at least 1 example, or None, got 0"),
        ({"minibatch": 2.5}, "got 2.5"),
        ({"bound": -5.0}, "bound must be positive and finite"),
        ({"penalty": float("nan")}, "penalty must be finite"),
        ({"units": [1.0, 0.0]}, r"units must be positive and finite numbers, .* got \[1\.0, 0\.0\]"),
        ({"units": []}, "units must be positive"),
        ({"units": 2.0}, "units must be positive .* got 2.0"),
        ({"units": "12"}, "units must be positive .* got '12'"),
        ({"units": ["x"]}, "units must be positive"),
        ({"units": [float("inf")]}, "units must be positive"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ProblemSpec.from_dict(changed_dict(**changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"text"', "{}"])
def test_text_that_is_no_description_is_refused(text):
    with pytest.raises(ValueError, match=r"Expecting|JSON object|format 1"):
        ProblemSpec.from_json(text)


def test_a_task_or_subspace_of_another_type_is_refused(path):
    spec = spec_of(path)
    with pytest.raises(TypeError, match=r"lp\.tasks\.Classification\(…\), got str"):
        ProblemSpec("tiny-gpt2", "sentiment", spec.subspace)
    with pytest.raises(TypeError, match=r"lp\.subspaces\.LoRAXS\(…\)"):
        ProblemSpec("tiny-gpt2", spec.task, lp.subspaces.LoRAXS)
    with pytest.raises(TypeError, match="tuple of names, got the string 'loss'"):
        ProblemSpec("tiny-gpt2", spec.task, spec.subspace, objectives="loss")
