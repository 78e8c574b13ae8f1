"""The same map with another length of its units."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import FullVector, LoRAXS
from llm_problem.subspaces.scaled import ScaledSubspace


def change(bound, x):
    """The changes of candidate x (d,), target by target."""
    return [delta.left @ delta.core[0] @ delta.right for delta in bound.deltas(x[None])]


@pytest.fixture
def inner(small_model):
    return LoRAXS(2, layers=2).bind(small_model("llama", dtype=torch.float64), 0)


def test_one_unit_for_all(inner):
    x = torch.as_tensor(np.random.default_rng(0).standard_normal(inner.dimension))
    scaled = ScaledSubspace(inner, (3.0,))
    for ours, theirs in zip(change(scaled, x), change(inner, x), strict=True):
        torch.testing.assert_close(ours, 3 * theirs)
    assert (scaled.dimension, scaled.parameters) == (inner.dimension, inner.parameters)
    assert scaled.basis_hash() == inner.basis_hash()


def test_each_block_has_its_own(inner):
    inner.blocks = (4, 8, 4)
    units = (2.0, 0.5, 1.0)
    x = torch.as_tensor(np.random.default_rng(0).standard_normal(16))
    expected = [2.0 * x[:4], 0.5 * x[4:12], x[12:]]
    scaled = ScaledSubspace(inner, units)
    for ours, theirs in zip(change(scaled, x), change(inner, torch.cat(expected)), strict=True):
        assert torch.equal(ours, theirs)
    assert (scaled.blocks, scaled.units) == (inner.blocks, units)


def test_a_prompt_is_handed_on(inner):
    inner.prompt = (3, 4)
    assert ScaledSubspace(inner, (2.0,)).prompt == (3, 4)


@pytest.mark.parametrize("units", [(), (1.0, 2.0)])
def test_as_many_units_as_blocks(units, inner):
    with pytest.raises(ValueError, match="units must be one factor for each of the 1 blocks of x, got"):
        ScaledSubspace(inner, units)


def test_theta0_is_in_the_new_units(small_model):
    loaded = small_model("gpt2")
    scaled = ScaledSubspace(FullVector(scale=0.25).bind(loaded, 0), (4.0,))
    weights = torch.cat([p.detach().double().reshape(-1) for p in loaded.model.parameters()])
    torch.testing.assert_close(scaled.theta0(), weights)  # 0.25 · 4 is one
    (first, *_) = scaled.deltas(torch.ones(1, scaled.dimension, dtype=torch.float64))
    assert torch.equal(first.value, torch.ones_like(first.value))
