"""What every registered subspace keeps: linear in x, zero at zero, repeatable, and honest about what it moves."""

import dataclasses
import inspect
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llm_problem.subspaces import (
    SUBSPACES,
    Fastfood,
    LoRA,
    LoRAXS,
    NormsAndBiases,
    RandomSubspace,
    Scales,
    SingularValues,
    SparseProjection,
    Subspace,
    TinyLoRA,
    VeRA,
)
from llm_problem.subspaces.deltas import EmbeddingDelta, PrefixDelta
from llm_problem.subspaces.scale import LOW_RANK_STEP
from tests.llm_problem.subspace_examples import EXAMPLES, RANDOM, example

RANKED = [kind for kind, cls in SUBSPACES.items() if "rank" in inspect.signature(cls).parameters]
TYPICAL = [
    LoRA(3),
    LoRAXS(1),
    LoRAXS(4),
    SingularValues(),
    SingularValues(5),
    TinyLoRA(20, rank=4),
    VeRA(6),
    VeRA(6, searched="b"),
]  # subspaces whose step is a share of each weight
CHOOSING = [kind for kind, cls in SUBSPACES.items() if "modules" in inspect.signature(cls).parameters]
FAMILIES = ["llama", "gpt2", "gpt_neox", "bert"]  # plain, fused and transposed, fused and interleaved, encoder
CASES = [(kind, family) for kind in SUBSPACES for family in FAMILIES if (kind, family) != ("prefix", "bert")]


@pytest.fixture(scope="module")
def model(small_model):
    """A function: family → one model in double precision, where linear means linear."""
    made = {}
    return lambda family: made.setdefault(family, small_model(family, dtype=torch.float64))


def moved(bound, X):
    """Candidates X (n, d) → for each, parameter (or part of the prompt) → its change, by the deltas' own `apply`."""
    changes = [{} for _ in range(len(X))]
    for delta in bound.deltas(torch.as_tensor(X)):
        for i, change in enumerate(changes):
            if isinstance(delta, EmbeddingDelta):
                change["embeddings"] = delta.value[i]
            elif isinstance(delta, PrefixDelta):
                change |= {f"keys {delta.layer}": delta.keys[i], f"values {delta.layer}": delta.values[i]}
            else:
                like = torch.zeros(bound.shapes_of[delta.parameter], dtype=torch.float64)
                change[delta.parameter] = delta.apply(change.get(delta.parameter, like), i)
    return changes


@pytest.fixture(scope="module")
def bind(model):
    """A function: kind and family → the bound subspace, which knows the shapes of what it moves."""

    def make(kind, family, seed=0):
        bound = example(kind, model(family)).bind(model(family), seed)
        named = dict(model(family).model.named_parameters())
        bound.shapes_of = {name: named[name].shape for name in bound.parameters}
        return bound

    return make


def test_every_subspace_has_an_example(model):
    assert set(EXAMPLES) == set(SUBSPACES)
    assert all(SUBSPACES[kind].kind == kind == example(kind, model("gpt2")).kind for kind in EXAMPLES)


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_zero_is_the_pretrained_model_exactly(kind, family, bind, model):
    bound = bind(kind, family)
    named = dict(model(family).model.named_parameters())
    for delta in bound.deltas(torch.zeros(1, bound.dimension, dtype=torch.float64)):
        if isinstance(delta, EmbeddingDelta):
            assert not delta.value.any()
        elif isinstance(delta, PrefixDelta):
            assert not delta.keys.any() and not delta.values.any()
        else:
            assert torch.equal(delta.apply(named[delta.parameter].detach(), 0), named[delta.parameter])


numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


@pytest.mark.parametrize(("kind", "family"), CASES)
@settings(max_examples=8)
@given(a=numbers, b=numbers, seed=st.integers(0, 99))
def test_linear_in_x(kind, family, bind, a, b, seed):
    bound = bind(kind, family)
    x, y = np.random.default_rng(seed).standard_normal((2, bound.dimension))
    of_x, of_y, of_both = moved(bound, np.stack([x, y, a * x + b * y]))
    for name, change in of_both.items():
        torch.testing.assert_close(change, a * of_x[name] + b * of_y[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", SUBSPACES)
@settings(max_examples=8)
@given(X=arrays(float, (3, 12), elements=st.floats(-5, 5)))
def test_candidates_of_one_call_do_not_mix(kind, bind, X):
    bound = bind(kind, "gpt2")
    X = np.resize(X, (3, bound.dimension))
    together = moved(bound, X)
    for i in range(3):
        for name, change in moved(bound, X[i : i + 1])[0].items():
            torch.testing.assert_close(together[i][name], change, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_coordinate_moves_something_of_its_own(kind, family, bind):
    bound = bind(kind, family)
    chosen = np.random.default_rng(0).permutation(bound.dimension)[:12]
    X = np.zeros((len(chosen), bound.dimension))
    X[np.arange(len(chosen)), chosen] = 1
    rows = [torch.cat([part.reshape(-1) for part in change.values()]) for change in moved(bound, X)]
    assert np.linalg.matrix_rank(torch.stack(rows).numpy()) == len(chosen)


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_parameters_are_the_stored_tensors_that_move(kind, family, bind, model):
    bound = bind(kind, family)
    assert set(bound.parameters) <= set(dict(model(family).model.named_parameters()))
    assert len(set(bound.parameters)) == len(bound.parameters)
    change = moved(bound, np.ones((1, bound.dimension)))[0]
    assert set(bound.parameters) == (set() if bound.prompt else set(change))
    assert all(tensor.abs().max() > 0 for tensor in change.values())


@pytest.mark.parametrize("kind", [kind for kind, example in EXAMPLES.items() if not hasattr(example, "text")])
def test_applying_leaves_the_tensor_it_is_given(kind, bind, model):
    bound = bind(kind, "gpt2")
    named = dict(model("gpt2").model.named_parameters())
    for delta in bound.deltas(torch.ones(1, bound.dimension, dtype=torch.float64)):
        before = named[delta.parameter].detach().clone()
        delta.apply(named[delta.parameter].detach(), 0)
        assert torch.equal(named[delta.parameter], before)


@pytest.mark.parametrize("kind", SUBSPACES)
def test_gradients_flow_to_x(kind, bind):
    bound = bind(kind, "gpt2")
    x = torch.zeros(1, bound.dimension, dtype=torch.float64, requires_grad=True)
    total = sum(part.sum() for part in moved(bound, x)[0].values())
    (gradient,) = torch.autograd.grad(total, x)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_the_same_seed_gives_the_same_basis(kind, family, bind):
    first, again, other = (bind(kind, family, seed).basis_hash() for seed in (3, 3, 4))
    assert len(first) == 64
    assert first == again
    assert (first != other) == (kind in RANDOM)


@pytest.mark.parametrize("kind", SUBSPACES)
def test_another_scale_is_another_basis(kind, model):
    hashes = {
        dataclasses.replace(example(kind, model("gpt2")), scale=scale).bind(model("gpt2"), 0).basis_hash()
        for scale in (None, 0.5, 0.25)
    }
    assert len(hashes) == 3


@pytest.mark.parametrize("kind", SUBSPACES)
def test_scale_multiplies_the_map(kind, model, bind):
    x = np.random.default_rng(0).standard_normal((1, bind(kind, "gpt2").dimension))
    changes = []
    for scale in (1.0, 3.0):
        bound = dataclasses.replace(example(kind, model("gpt2")), scale=scale).bind(model("gpt2"), 0)
        bound.shapes_of = bind(kind, "gpt2").shapes_of
        changes.append(moved(bound, x)[0])
    for name, change in changes[0].items():
        torch.testing.assert_close(3 * change, changes[1][name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "x", True, [1.0]])
@pytest.mark.parametrize("kind", SUBSPACES)
def test_a_scale_that_is_none_is_refused(kind, scale, model):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        dataclasses.replace(example(kind, model("gpt2")), scale=scale)


@pytest.mark.parametrize("kind", CHOOSING)
def test_a_pattern_that_matches_nothing_lists_the_names(kind, model):
    with pytest.raises(ValueError, match=r"no module of layer 2 matches 'q_porj' \(did you mean .*q_proj") as caught:
        SUBSPACES[kind](layers=1, modules=("q_porj",)).bind(model("llama"), 0)
    assert all(name in str(caught.value) for name in ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj"))


@pytest.mark.parametrize("kind", CHOOSING)
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"layers": 0}, "from 1 to 3"),
        ({"layers": 4}, "from 1 to 3"),
        ({"layers": [0, 3]}, "layer 3 does not exist"),
        ({"layers": [1, 1]}, "at most once"),
        ({"layers": []}, "at least one layer"),
        ({"modules": ("q_proj", "attn.c_attn")}, "overlap"),
    ],
)
def test_layers_and_modules_that_do_not_fit_are_refused(kind, choice, message, model):
    with pytest.raises(ValueError, match=message):
        SUBSPACES[kind](**choice).bind(model("gpt2"), 0)


@pytest.mark.parametrize("kind", CHOOSING)
@pytest.mark.parametrize("layers", ["last", 1.5, True, [0, 1.0], ["0"], [False]])
def test_layers_must_be_integers(kind, layers):
    with pytest.raises(ValueError, match=f"layers must be k for the last k layers, .* got {re.escape(repr(layers))}"):
        SUBSPACES[kind](layers=layers)


@pytest.mark.parametrize("kind", CHOOSING)
@pytest.mark.parametrize("modules", [(), ("",), (3,), None, 3])
def test_modules_must_be_names(kind, modules):
    with pytest.raises(ValueError, match="modules must be one or more names"):
        SUBSPACES[kind](modules=modules)


@pytest.mark.parametrize("kind", CHOOSING)
def test_layers_count_from_the_end_or_by_number(kind, model):
    def parameters(layers):
        return SUBSPACES[kind](layers=layers, modules="q_proj").bind(model("llama"), 0).parameters

    assert parameters(2) == parameters([1, 2]) == parameters((-1, -2))
    assert parameters(2) == tuple(f"model.layers.{k}.self_attn.q_proj.weight" for k in (1, 2))
    assert len(parameters(None)) == 3


@pytest.mark.parametrize(
    ("subspace", "dimension"),
    [
        (LoRAXS(3, layers=2), 9 * 4),
        (LoRAXS(3, modules="q_proj"), 9 * 3),
        (LoRAXS(8, layers=1, modules=("*_proj",)), 64 * 7),
        (RandomSubspace(11, layers=1), 11),
        (LoRA(3, layers=2), 3 * (32 + 16) * 2),
        (TinyLoRA(11, rank=2, layers=2), 11),
        (TinyLoRA(4, rank=2, layers=1, modules="q_proj"), 4),
        (VeRA(5, layers=2), 5 * 4),
        (VeRA(5, layers=2, searched="b"), (32 + 16) * 2),
        (SingularValues(3, layers=2), 3 * 4),
        (SingularValues(layers=2, modules=("q_proj", "v_proj", "down_proj")), (32 + 16 + 32) * 2),
        (SparseProjection(11, layers=1), 11),
        (Fastfood(11, layers=1), 11),
        (Scales(layers=2), 2 * (16 + 16 + 48)),
        (Scales(layers=1, modules="q_proj"), 32),
        (NormsAndBiases(layers=2), 2 * 2 * 32),
        (NormsAndBiases(final_norm=True), (3 * 2 + 1) * 32),
    ],
)
def test_dimension(subspace, dimension, model):
    assert subspace.bind(model("llama"), 0).dimension == dimension


@pytest.mark.parametrize("kind", [kind for kind in RANKED if kind != VeRA.kind])  # whose rank is of other matrices
def test_a_rank_above_that_of_a_weight_is_refused(kind, model):
    v_proj = {"layers": 1, "modules": "v_proj"}  # (16, 32)
    SUBSPACES[kind](rank=16, **v_proj).bind(model("llama"), 0)
    with pytest.raises(
        ValueError, match=r"rank 17 is above the rank of .*v_proj, whose shape is \(16, 32\): at most 16"
    ):
        SUBSPACES[kind](rank=17, **v_proj).bind(model("llama"), 0)


@pytest.mark.parametrize("kind", RANKED)
@pytest.mark.parametrize("rank", [0, -1, 1.5, "4", True])
def test_rank_must_be_a_positive_integer(kind, rank):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1"):
        SUBSPACES[kind](rank=rank)


@pytest.mark.parametrize("kind", [kind for kind in RANKED if kind != "singular-values"])
def test_a_rank_must_be_given(kind):
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got None"):
        SUBSPACES[kind](rank=None)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", RANKED)
def test_a_weight_without_a_size_is_refused_and_not_searched_in_vain(kind, value, small_model):
    loaded = small_model("llama")
    with torch.no_grad():
        loaded.model.model.layers[2].self_attn.v_proj.weight.fill_(value)
    with pytest.raises(ValueError, match=r"v_proj is zero or not finite"):
        SUBSPACES[kind](rank=4, layers=1).bind(loaded, 0)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("subspace", TYPICAL, ids=str)
def test_default_step_is_the_set_share_of_each_weight(subspace, layers, model):
    bound = dataclasses.replace(subspace, layers=layers).bind(model("llama"), 0)
    named = dict(model("llama").model.named_parameters())
    bound.shapes_of = {name: named[name].shape for name in bound.parameters}
    drawn = moved(bound, np.random.default_rng(1).standard_normal((600, bound.dimension)))
    share = LOW_RANK_STEP * np.sqrt(3 / len(bound.parameters))  # of three layers
    for name in bound.parameters:
        rms = np.sqrt(np.mean([float(change[name].square().sum()) for change in drawn]))  # (E‖ΔW‖²)^½
        assert rms == pytest.approx(share * float(named[name].norm()), rel=0.12)


@pytest.mark.parametrize("kind", SUBSPACES)
def test_descriptions_are_frozen_compare_and_hash(kind, model):
    given = example(kind, model("gpt2"))
    same = type(given)(**vars(given))
    assert same == given
    assert hash(same) == hash(given)
    with pytest.raises(AttributeError):
        same.scale = 2.0


def test_subspace_is_the_base_of_all():
    assert all(issubclass(cls, Subspace) for cls in SUBSPACES.values())
