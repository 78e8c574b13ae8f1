"""Batches with a prompt in front of everything that is read."""

import numpy as np
import pytest

import llm_problem as lp
from llm_problem.tasks.batch import BatchBuilder


def batch(sources=False):
    builder = BatchBuilder()
    numbers = [builder.add_source([11, 12, 2]), builder.add_source([13, 2])] if sources else [None, None]
    for label, ids in enumerate(([5, 6, 7], [8])):
        builder.start_example(label)
        sequence = builder.add_sequence(ids, numbers[label])
        for answer in (0, 1):
            builder.read(sequence, len(ids) - 1, 20 + answer, answer)
    return builder.build(labels_compete=True)


def test_the_prompt_stands_first_and_positions_follow():
    plain, prompted = batch(), batch().prompted((3, 4))
    assert [ids.tolist() for ids in prompted.sequences] == [[3, 4, 5, 6, 7], [3, 4, 8]]
    assert prompted.position.tolist() == [4, 4, 2, 2]
    for name in ("sequence", "token", "example", "answer", "label"):
        np.testing.assert_array_equal(getattr(prompted, name), getattr(plain, name))
    assert prompted.contrast and plain.contrast
    assert [ids.tolist() for ids in plain.sequences] == [[5, 6, 7], [8]]
    assert prompted.fingerprint() != plain.fingerprint()
    assert prompted.take([1]).fingerprint() == plain.take([1]).prompted((3, 4)).fingerprint()


def test_an_encoder_reads_the_prompt_before_the_source():
    plain, prompted = batch(sources=True), batch(sources=True).prompted((3, 4))
    assert [ids.tolist() for ids in prompted.sources] == [[3, 4, 11, 12, 2], [3, 4, 13, 2]]
    assert [ids.tolist() for ids in prompted.sequences] == [[5, 6, 7], [8]]
    assert prompted.position.tolist() == plain.position.tolist()
    assert prompted.source.tolist() == plain.source.tolist()


@pytest.mark.parametrize("split", ["search", "dev", "test"])
def test_every_split_and_minibatch_of_a_problem_has_the_prompt(split, small_model, label_task):
    loaded = small_model("gpt2")
    problem = lp.Problem(loaded, label_task, lp.subspaces.SoftPrompt("Say: ", 4), minibatch=2)
    plain = label_task.batch(loaded, split, 0)
    assert problem.batch(split).fingerprint() == plain.prompted(problem.subspace.prompt).fingerprint()
    for part in (problem._batches.minibatch(1), *problem._batches.parts(2)):
        assert all(ids[:5].tolist() == list(problem.subspace.prompt) for ids in part.sequences)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_task_that_leaves_no_room_is_refused(family, small_model):
    task = lp.tasks.LanguageModelling.from_string("many plain words in a row " * 60, window=60, search_size=2)
    loaded = small_model(family)
    assert np.isfinite(lp.Problem(loaded, task, lp.subspaces.SoftPrompt("Say:", 4), evaluator="serial")(np.zeros(4)))
    with pytest.raises(ValueError, match=r"5 tokens and the longest text's 60 .* context of 64 .* at most 59"):
        lp.Problem(loaded, task, lp.subspaces.SoftPrompt("Say: ", 4))


def test_sources_that_leave_no_room_are_refused(small_model, label_task):
    loaded = small_model("t5")
    longest = max(ids.size for ids in label_task.batch(loaded, "search", 0).sources)
    text = "x" * (64 - longest)
    assert np.isfinite(
        lp.Problem(loaded, label_task, lp.subspaces.SoftPrompt(text, 4), evaluator="serial")(np.zeros(4))
    )
    with pytest.raises(ValueError, match=rf"the longest text's {longest} are more than the model's context of 64"):
        lp.Problem(loaded, label_task, lp.subspaces.SoftPrompt(text + "x", 4))
