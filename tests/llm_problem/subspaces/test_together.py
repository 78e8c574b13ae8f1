"""Subspaces side by side: every evaluator adds what overlaps, and equal parts are not the same."""

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import ReplayEvaluator, SerialEvaluator
from llm_problem.subspaces import FullVector, LoRAXS, RandomSubspace, Together
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.subspaces.deltas import EmbeddingDelta
from llm_problem.subspaces.together import part_seed

FUSED = {"gpt2": "attn.c_attn", "gpt_neox": "attention.query_key_value"}
PARTS = {
    "low rank twice": lambda family: (LoRAXS(2, layers=2), LoRAXS(3, layers=1, modules="q_proj")),
    "low rank and entries": lambda family: (LoRAXS(2, layers=1), RandomSubspace(3, layers=1, modules="q_proj")),
    "a weight and what it is fused in": lambda family: (
        LoRAXS(2, layers=2),
        LoRAXS(2, layers=2, modules=FUSED.get(family, "q_proj")),
    ),
    "low rank and whole tensors": lambda family: (LoRAXS(2, layers=1), FullVector(scale=0.01)),
}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
@pytest.mark.parametrize("overlap", PARTS)
def test_what_overlaps_adds_up_under_every_evaluator(overlap, family, small_model, text_task, points):
    loaded, parts = small_model(family, dtype=torch.float64), PARTS[overlap](family)
    bound = Together(parts).bind(loaded, 3)
    batch = text_task.batch(loaded, "search", 0)
    X = points(4, bound.dimension)
    # The parts on their own, one after another: the second is bound to the model that the first has changed.
    first, second = (part.bind(loaded, part_seed(3, k)) for k, part in enumerate(parts))
    expected = []
    for x in X:
        with SerialEvaluator(loaded, first).changed(x[None, : first.dimension]):
            expected.append(SerialEvaluator(loaded, second).log_probs(x[None, first.dimension :], batch)[0])
    np.testing.assert_allclose(SerialEvaluator(loaded, bound).log_probs(X, batch), expected, atol=1e-9)
    replay = ReplayEvaluator(loaded, bound, batch)
    assert replay.planned == (overlap != "low rank and whole tensors")
    np.testing.assert_allclose(replay.log_probs(X, batch), expected, atol=1e-9)
    for i in range(len(X)):
        np.testing.assert_array_equal(replay.log_probs(X, batch)[i], replay.log_probs(X[i : i + 1], batch)[0])


def test_equal_parts_have_different_bases(small_model):
    loaded = small_model("llama")
    part = RandomSubspace(3, layers=1)
    bound = Together((part, part)).bind(loaded, 0)
    hashes = {b.basis_hash() for b in (*bound.parts, part.bind(loaded, 0))}
    assert len(hashes) == 3
    assert Together((part, part)).bind(loaded, 0).basis_hash() == bound.basis_hash()
    assert Together((part, part)).bind(loaded, 1).basis_hash() != bound.basis_hash()


def test_what_it_says_of_itself(small_model):
    loaded = small_model("llama")
    bound = Together((LoRAXS(2, layers=1), RandomSubspace(5, layers=1, modules=("v_proj", "o_proj")))).bind(loaded, 0)
    assert bound.dimension == 8 + 5
    assert bound.blocks == (8, 5)
    layer = "model.layers.2.self_attn"
    assert bound.parameters == tuple(f"{layer}.{name}.weight" for name in ("q_proj", "v_proj", "o_proj"))
    assert bound.prompt == ()


class BoundPrompt(BoundSubspace):
    """Offsets to the embeddings of a prompt, one number a token."""

    parameters = ()

    def __init__(self, prompt, width):
        self.prompt, self.dimension, self.width = prompt, len(prompt), width

    def deltas(self, X):
        return [EmbeddingDelta(X[:, :, None].expand(-1, -1, self.width))]

    def basis(self):
        return iter(())


class Prompt(LoRAXS):
    kind = "prompt-of-this-test"

    def bind(self, model, seed):
        return BoundPrompt((5, 6, 7), 32)


def test_the_prompt_is_that_of_the_one_part_that_has_one(small_model):
    loaded = small_model("llama")
    bound = Together((LoRAXS(2, layers=1), Prompt())).bind(loaded, 0)
    assert bound.prompt == (5, 6, 7)
    assert bound.dimension == 8 + 3
    x = torch.arange(11.0)[None]
    assert torch.equal(bound.deltas(x)[-1].value[0, :, 0], x[0, 8:])
    with pytest.raises(ValueError, match="only one part may bring a prompt, these do: prompt-of-this-test, prompt-of"):
        Together((Prompt(), LoRAXS(2), Prompt())).bind(loaded, 0)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((), ValueError, "two or more subspaces, got 0"),
        ((LoRAXS(2),), ValueError, "two or more subspaces, got 1"),
        (LoRAXS(2), ValueError, "two or more subspaces, got 1"),
        ((LoRAXS(2), "lora-xs"), TypeError, "must be subspaces such as .*, got str"),
        ((LoRAXS(2), Together((LoRAXS(2), LoRAXS(3)))), ValueError, "give all the parts to one"),
    ],
)
def test_parts_that_are_none_are_refused(parts, error, message):
    with pytest.raises(error, match=message):
        Together(parts)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"kind": "lora-xz"}, "unknown subspace 'lora-xz': there are .*lora-xs"),
        ({"kind": "lora-xs", "rang": 2}, "unknown keys of subspace 'lora-xs': rang"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_when_it_is_read(part, message, text_task):
    values = lp.ProblemSpec("tiny-gpt2", text_task, Together((LoRAXS(2), LoRAXS(3)))).to_dict()
    assert [p["kind"] for p in values["subspace"]["parts"]] == ["lora-xs", "lora-xs"]
    values["subspace"]["parts"][1] = part
    with pytest.raises(ValueError, match=message):
        lp.ProblemSpec.from_dict(values)
