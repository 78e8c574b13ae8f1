"""The sparse projection: isometric, balanced, and as small as what it moves."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import SparseProjection
from llm_problem.subspaces.scale import LOW_RANK_STEP


def matrix(bound):
    """P (D, d), column by column from the changes of unit vectors."""
    changes = bound.deltas(torch.eye(bound.dimension, dtype=torch.float64))
    return torch.cat([delta.value.flatten(1) for delta in changes], dim=1).double().numpy().T


@pytest.mark.parametrize("dimension", [1, 7, 640, 1000])
def test_the_projection_is_isometric_and_has_one_number_a_row(dimension, small_model):
    loaded = small_model("llama", dtype=torch.float64)
    P = matrix(SparseProjection(dimension, layers=2, scale=1.0).bind(loaded, 3))
    np.testing.assert_allclose(P.T @ P, np.eye(dimension), atol=1e-6)
    assert (np.count_nonzero(P, axis=1) == 1).all()
    sizes = np.count_nonzero(P, axis=0)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_allclose(np.abs(P).max(axis=0), 1 / np.sqrt(sizes), rtol=1e-6)


def test_groups_and_signs_are_random_and_reach_every_weight(small_model):
    bound = SparseProjection(8, layers=3, modules=("q_proj", "o_proj")).bind(
        small_model("gpt2", dtype=torch.float64), 0
    )
    P = matrix(bound)
    assert abs((P > 0).sum() / np.count_nonzero(P) - 0.5) < 0.02
    for block in np.split(P, len(bound.targets)):  # 1,024 entries each, so about 128 of every group
        counts = np.count_nonzero(block, axis=0)
        assert (np.abs(counts - 128) < 60).all()
    group = np.abs(P).argmax(axis=1)
    assert abs(np.mean(group[1:] == group[:-1]) - 1 / 8) < 0.02  # neighbours know nothing of one another


@pytest.mark.parametrize("dimension", [1, 40])
def test_default_step_is_the_set_share_of_all_moved_weights(dimension, small_model):
    loaded = small_model("llama")
    bound = SparseProjection(dimension, layers=2).bind(loaded, 0)
    named = dict(loaded.model.named_parameters())
    size = np.sqrt(sum(float(named[name].double().square().sum()) for name in bound.parameters))
    # PᵀP = c² I, so E‖P x‖² = d c².
    column = np.linalg.norm(matrix(bound), axis=0)
    expected = LOW_RANK_STEP * np.sqrt(3 / len(bound.targets)) * size / np.sqrt(dimension)
    np.testing.assert_allclose(column, expected, rtol=1e-5)


def test_memory_does_not_grow_with_the_dimension(small_model):
    loaded = small_model("llama")
    few, many = (SparseProjection(d, modules="*_proj").bind(loaded, 0) for d in (2, 20_000))
    sizes = [sum(t.numel() * t.element_size() for t in bound.basis()) for bound in (few, many)]
    assert sizes[0] == sizes[1] == 8 * sum(np.prod(t.shape) for t in few.targets)
    assert many.deltas(torch.ones(2, 20_000, dtype=torch.float64))[0].value.shape == (2, *many.targets[0].shape)
