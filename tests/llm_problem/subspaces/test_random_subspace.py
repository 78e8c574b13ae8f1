"""The random subspace: its draws, its lengths, and its limits."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import RandomSubspace
from llm_problem.subspaces.scale import LOW_RANK_STEP


def columns(bound):
    """P (d, numbers moved)."""
    return np.concatenate([p.double().reshape(bound.dimension, -1).numpy() for p in bound.projections], axis=1)


def test_columns_are_gaussian_draws_of_one_length(small_model):
    P = columns(RandomSubspace(20, layers=2, scale=0.3).bind(small_model("gpt2"), 1))
    np.testing.assert_allclose(np.linalg.norm(P, axis=1), 0.3, rtol=1e-5)
    spread = P / P.std(axis=1, keepdims=True)
    assert abs(spread.mean()) < 0.01
    assert np.mean(spread**4) == pytest.approx(3, abs=0.1)  # the kurtosis of a Gaussian
    cosines = P @ P.T / 0.09
    assert np.abs(cosines[~np.eye(20, dtype=bool)]).max() < 0.1


@pytest.mark.parametrize("dimension", [1, 40])
def test_default_step_is_the_set_share_of_all_moved_weights(dimension, small_model):
    loaded = small_model("llama")
    bound = RandomSubspace(dimension, layers=2).bind(loaded, 0)
    named = dict(loaded.model.named_parameters())
    size = np.sqrt(sum(float(named[name].double().square().sum()) for name in bound.parameters))
    X = np.random.default_rng(0).standard_normal((4000, dimension))
    rms = np.sqrt(np.mean(np.square(X @ columns(bound)).sum(axis=1)))  # (E‖P x‖²)^½
    assert rms == pytest.approx(LOW_RANK_STEP * np.sqrt(3 / len(bound.targets)) * size, rel=0.06)


def test_change_is_the_weighted_sum_of_the_columns(small_model):
    loaded = small_model("gpt_neox", dtype=torch.float64)
    bound = RandomSubspace(6, layers=2).bind(loaded, 3)
    x = np.random.default_rng(0).standard_normal(6)
    change = np.concatenate([delta.value[0].reshape(-1).numpy() for delta in bound.deltas(torch.as_tensor(x)[None])])
    np.testing.assert_allclose(change, x @ columns(bound), rtol=1e-9, atol=1e-12)


def test_more_dimensions_begin_with_the_same_directions(small_model):
    loaded = small_model("llama")
    few, many = (columns(RandomSubspace(d, layers=1, scale=1.0).bind(loaded, 5)) for d in (3, 9))
    np.testing.assert_array_equal(few, many[:3])
