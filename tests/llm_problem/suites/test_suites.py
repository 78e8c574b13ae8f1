"""Suites: what is in them, in which order, and what is refused."""

import re

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.suites import made_data
from llm_problem.suites.own_model import SUBSPACES, TASKS
from llm_problem.tasks import Data

SUITES = {name: lp.suites.get(name) for name in ("tiny", "real")}


def test_there_are_as_many_problems_tasks_and_subspaces_as_are_promised():
    entries = [entry for suite in SUITES.values() for entry in suite.select(instances=[0]).entries]
    assert len({entry.spec.id for entry in entries}) == len(entries) >= 24
    assert len({entry.task for entry in entries}) >= 4
    assert len({entry.spec.subspace.kind for entry in entries}) >= 6
    assert sorted(entry.spec.id for entry in entries) == lp.list_problems()


def test_tiny_has_small_dimensions_a_full_vector_and_several_instances():
    tiny = SUITES["tiny"]
    *small, full = tiny.dimensions
    assert min(small) == 8 and 500 <= max(small) <= 1_000 and full > 100_000
    assert {entry.spec.instance for entry in tiny.entries} == {0, 1, 2}
    assert len({entry.name for entry in tiny.entries}) == len(tiny) == 3 * len(tiny.select(instances=[0]))


def test_no_two_problems_are_the_same_function():
    for suite in SUITES.values():
        prints = [entry.spec.fingerprint(entry.spec.model) for entry in suite.entries]
        assert len(set(prints)) == len(prints)


def test_a_suite_goes_through_problems_then_dimensions_then_instances():
    names = [name for name in SUITES["tiny"].names if name.startswith("tiny-gpt2-prose-lora-xs")]
    ids = ("tiny-gpt2-prose-lora-xs-d32-v1", "tiny-gpt2-prose-lora-xs-d512-v1")
    assert names == [id + instance for id in ids for instance in ("", "@1", "@2")]


def test_iterating_makes_the_problems_that_the_entries_name():
    part = SUITES["tiny"].select("tiny-gpt2-*", tasks=["agreement"], dimensions=(1, 100), instances=[0, 2])
    problems = list(part)
    assert [problem.name for problem in problems] == part.names == [
        "tiny-gpt2-agreement-tiny-lora-d8-v1", "tiny-gpt2-agreement-tiny-lora-d8-v1@2",
    ]  # fmt: skip
    assert [problem.dimension for problem in problems] == [entry.dimension for entry in part.entries]
    assert problems[0](problems[0].x0) != problems[1](problems[1].x0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["sentimnt"]}, "unknown task 'sentimnt': did you mean sentiment or continuation?"),
        ({"subspaces": ["lora-sx"]}, "unknown subspace 'lora-sx': did you mean lora"),
        ({"dimensions": (2, 3)}, "nothing in the suite 'tiny' fits"),
        ({"dimensions": 3}, "nothing in the suite 'tiny' fits"),
        ({"dimensions": (2, 3, 4)}, "dimensions are one, or the smallest and the largest, got (2, 3, 4)"),
        ({"tasks": "sentimnt"}, "unknown task 'sentimnt': did you mean sentiment or continuation?"),
    ],
)
def test_a_selection_that_fits_nothing_is_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SUITES["tiny"].select(**options)


def test_a_selection_may_be_a_single_word_or_number():
    one, several = (
        SUITES["tiny"].select(tasks=tasks, subspaces=subspaces, dimensions=dimensions, instances=instances)
        for tasks, subspaces, dimensions, instances in (
            ("prose", "lora-xs", 32, 0),
            (["prose"], ["lora-xs"], (32, 32), [0]),
        )
    )
    assert one.names == several.names == ["tiny-bert-prose-lora-xs-d32-v1", "tiny-gpt2-prose-lora-xs-d32-v1"]


def test_unknown_suites_get_the_nearest_name():
    for bad in (None, ["tiny"]):
        with pytest.raises(ValueError, match="unknown suite"):
            lp.suites.get(bad)
    with pytest.raises(TypeError, match=re.escape('get("own", model="models/mine")')):
        lp.suites.get("own")
    with pytest.raises(ValueError, match=r"unknown suite 'tinny': did you mean tiny\?"):
        lp.suites.get("tinny")
    with pytest.raises(TypeError, match="takes no options, got model"):
        lp.suites.get("tiny", model="tiny-gpt2")


def test_own_models_get_every_task_by_every_subspace():
    suite = lp.suites.get("own", model="tiny-gpt2", instances=2)
    assert len(suite) == 2 * len(TASKS) * len(SUBSPACES)
    for entry in suite.select("*agreement*", dimensions=(1, 40), instances=[1]).entries:
        problem = entry.make()
        assert problem.name == entry.name
        assert re.fullmatch(r"own/tiny-gpt2-agreement-[a-z-]+-d[0-9]+-v1@1", entry.name)
        assert problem.dimension == entry.dimension
        assert np.isfinite(problem(problem.x0))
    with pytest.raises(TypeError, match="model must be a name, a directory or a hub id"):
        lp.suites.get("own", model=None)
    for model in ("", "tiny-gtp2", "./nowhere"):
        with pytest.raises(ValueError, match=f"unknown model {model!r}"):
            lp.suites.get("own", model=model)
    with pytest.raises(ValueError, match="instances must be an integer of at least 1, got 0"):
        lp.suites.get("own", model="tiny-gpt2", instances=0)
    assert len(lp.suites.get("own", model="somebody/a-model")) == 24  # nothing is asked of the hub yet


def test_a_directory_is_a_model_of_ones_own(tmp_path, small_pair):
    model, tokenizer = small_pair("llama", max_position_embeddings=512)
    tokenizer.model_max_length = 512
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "My Model!")
    (entry,) = lp.suites.get("own", model=tmp_path / "My Model!").select("*prose-lora-xs-d32*").entries
    assert entry.name == "own/my-model-prose-lora-xs-d32-v1"
    assert entry.make().dimension == 32


@pytest.mark.parametrize("name", sorted(made_data.MADE))
def test_made_data_is_what_its_rules_make(name):
    assert Data.of(f"embedded:{name.partition('.')[0]}").text() == made_data.MADE[name]()


def test_agreement_has_attractors_of_both_numbers_and_new_subjects_in_each_split():
    rows = Data.of("embedded:agreement").rows(["text", "label", "split"])
    subjects, kinds = {}, set()
    plurals = {pair.split()[1] for pair in made_data.ATTRACTORS}
    for row in rows:
        words = row["text"].split()
        subjects.setdefault(row["split"], set()).add(words[1].removesuffix("s"))
        kinds.add((row["label"], words[-1] in plurals))
    assert len(kinds) == 4
    assert not set.intersection(*subjects.values()) and len(subjects) == 3
    labels = [row["label"] for row in rows]
    assert labels.count("plural") == labels.count("singular")


def test_continuations_offer_the_next_sentence_among_four():
    text = " ".join(Data.of("embedded:prose").text().split())
    for row in Data.of("embedded:continuations").rows(["text", "answer", *made_data.CHOICES]):
        right = made_data.CHOICES[int(row["answer"])]
        follows = [c for c in made_data.CHOICES if re.search(re.escape(row["text"]) + r"\s+" + re.escape(row[c]), text)]
        assert follows == [right]
