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

from llm_problem.subspaces import SUBSPACES, LoRAXS, RandomSubspace, Subspace
from tests.llm_problem.subspace_examples import EXAMPLES, RANDOM, example

CHOOSING = [kind for kind, cls in SUBSPACES.items() if "modules" in inspect.signature(cls).parameters]
FAMILIES = ["llama", "gpt2", "gpt_neox", "bert"]  # plain, fused and transposed, fused and interleaved, encoder


@pytest.fixture(scope="module")
def model(small_model):
    """A function: family → one model in double precision, where linear means linear."""
    made = {}
    return lambda family: made.setdefault(family, small_model(family, dtype=torch.float64))


def moved(bound, X):
    """Candidates X (n, d) → for each, parameter → its change, by the deltas' own `apply`."""
    changes = [{} for _ in X]
    for delta in bound.deltas(torch.as_tensor(X)):
        for i, change in enumerate(changes):
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SUBSPACES)
def test_zero_is_the_pretrained_model_exactly(kind, family, bind, model):
    bound = bind(kind, family)
    named = dict(model(family).model.named_parameters())
    for delta in bound.deltas(torch.zeros(1, bound.dimension, dtype=torch.float64)):
        assert torch.equal(delta.apply(named[delta.parameter].detach(), 0), named[delta.parameter])


numbers = st.floats(-100, 100).map(lambda value: round(value, 3))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SUBSPACES)
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SUBSPACES)
def test_every_coordinate_moves_something_of_its_own(kind, family, bind):
    bound = bind(kind, family)
    chosen = np.random.default_rng(0).permutation(bound.dimension)[:12]
    X = np.zeros((len(chosen), bound.dimension))
    X[np.arange(len(chosen)), chosen] = 1
    rows = [torch.cat([change[name].reshape(-1) for name in bound.parameters]) for change in moved(bound, X)]
    assert np.linalg.matrix_rank(torch.stack(rows).numpy()) == len(chosen)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SUBSPACES)
def test_parameters_are_the_stored_tensors_that_move(kind, family, bind, model):
    bound = bind(kind, family)
    assert set(bound.parameters) <= set(dict(model(family).model.named_parameters()))
    assert len(set(bound.parameters)) == len(bound.parameters)
    change = moved(bound, np.ones((1, bound.dimension)))[0]
    assert set(change) == set(bound.parameters)
    assert all(tensor.abs().max() > 0 for tensor in change.values())


@pytest.mark.parametrize("kind", SUBSPACES)
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
    total = sum(
        delta.apply(torch.zeros(bound.shapes_of[delta.parameter], dtype=torch.float64), 0).sum()
        for delta in bound.deltas(x)
    )
    (gradient,) = torch.autograd.grad(total, x)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", SUBSPACES)
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
def test_a_scale_that_is_none_is_refused(kind, scale):
    with pytest.raises(ValueError, match="scale must be positive and finite"):
        SUBSPACES[kind](scale=scale)


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
    ],
)
def test_dimension(subspace, dimension, model):
    assert subspace.bind(model("llama"), 0).dimension == dimension


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
