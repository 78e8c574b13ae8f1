"""Fastfood: the fast transform against Hadamard's matrix written out, and how near the projection is to a Gaussian."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_problem.subspaces import Fastfood
from llm_problem.subspaces.hadamard import walsh_hadamard
from llm_problem.subspaces.scale import LOW_RANK_STEP


def matrix(bound):
    """P (D, d), column by column from the changes of unit vectors."""
    changes = bound.deltas(torch.eye(bound.dimension, dtype=torch.float64))
    return torch.cat([delta.value.flatten(1) for delta in changes], dim=1).double().numpy().T


@given(power=st.integers(0, 8), rows=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_fast_transform_is_the_product_with_hadamards_matrix(power, rows, seed):
    x = np.random.default_rng(seed).standard_normal((2, rows, 2**power))
    found = walsh_hadamard(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, x @ scipy.linalg.hadamard(2**power), rtol=0, atol=1e-11)


def test_the_fast_transform_keeps_its_input_and_is_its_own_gradient():
    x = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = x.detach().clone()
    assert torch.autograd.gradcheck(walsh_hadamard, x)
    assert torch.equal(x, before)
    single = torch.ones(2, 1)
    assert walsh_hadamard(single).data_ptr() != single.data_ptr()


@pytest.mark.parametrize("size", [3, 12, 0])
def test_sizes_that_are_no_power_of_two_are_refused(size):
    with pytest.raises(ValueError, match=f"a power of two of numbers, got {size}"):
        walsh_hadamard(torch.ones(2, size))


@pytest.mark.parametrize("dimension", [1, 2, 13, 64])
def test_the_projection_is_the_blocks_written_out(dimension, small_model):
    loaded = small_model("gpt2", dtype=torch.float64)
    bound = Fastfood(dimension, layers=1, scale=0.7).bind(loaded, 5)
    signs, order, gaussian, lengths = (t.numpy() for t in bound.basis())
    q = signs.shape[1]
    assert q == 2 ** int(np.ceil(np.log2(dimension)))
    H = scipy.linalg.hadamard(q)
    blocks = [
        np.diag(s) @ H @ np.diag(g) @ np.eye(q)[p] @ H @ np.diag(b)
        for b, p, g, s in zip(signs, order, gaussian, lengths, strict=True)
    ]
    D = sum(bound.sizes)
    np.testing.assert_allclose(matrix(bound), np.concatenate(blocks)[:D, :dimension], rtol=0, atol=1e-9)


def test_the_projection_is_close_to_a_gaussian_one(small_model):
    loaded = small_model("llama", dtype=torch.float64)
    P = matrix(Fastfood(64, modules="*_proj", scale=1.0).bind(loaded, 1))
    D = len(P)
    assert D > 20_000
    np.testing.assert_allclose(np.linalg.norm(P, axis=0), 1, atol=0.1)  # columns
    rows = np.linalg.norm(P, axis=1) * np.sqrt(D)
    assert rows.mean() == pytest.approx(8, rel=0.01)  # √d
    assert rows.std() == pytest.approx(1 / np.sqrt(2), rel=0.05)  # of a χ distribution
    assert np.mean(P**4) / np.mean(P**2) ** 2 == pytest.approx(3, abs=0.1)  # the kurtosis of a Gaussian
    cosines = P.T @ P
    assert np.abs(cosines[~np.eye(64, dtype=bool)]).max() < 0.1


@pytest.mark.parametrize("dimension", [1, 40])
def test_default_step_is_the_set_share_of_all_moved_weights(dimension, small_model):
    loaded = small_model("llama")
    named = dict(loaded.model.named_parameters())
    squares = []
    for seed in range(20):
        bound = Fastfood(dimension, layers=2).bind(loaded, seed)
        squares.append(np.square(matrix(bound)).sum())  # E‖P x‖²
    size = np.sqrt(sum(float(named[name].double().square().sum()) for name in bound.parameters))
    expected = LOW_RANK_STEP * np.sqrt(3 / len(bound.targets)) * size
    assert np.sqrt(np.mean(squares)) == pytest.approx(expected, rel=0.05)


def test_many_dimensions_take_memory_for_the_entries_only(small_model):
    bound = Fastfood(20_000, modules="*_proj").bind(small_model("llama"), 0)  # of 23,040 entries: one block
    assert sum(t.numel() for t in bound.basis()) == 4 * 2**15
    changes = bound.deltas(torch.ones(2, 20_000, dtype=torch.float64))
    assert sum(delta.value[0].numel() for delta in changes) == 23_040


def test_half_precision_loses_no_more_than_the_weights_do(small_model):
    exact, half = (
        matrix(Fastfood(40, layers=2).bind(small_model("llama", dtype=dtype), 0))
        for dtype in (torch.float32, torch.bfloat16)
    )
    np.testing.assert_allclose(half, exact, rtol=0.02, atol=1e-5)


def test_as_many_dimensions_as_entries_reach_all_of_them(small_model):
    bound = Fastfood(512, layers=1, modules="v_proj").bind(small_model("llama"), 0)  # v_proj has 512 entries
    assert np.linalg.matrix_rank(matrix(bound)) == 512
