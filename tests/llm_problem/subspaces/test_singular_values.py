"""Singular values against numpy's own decomposition of the changed weight."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import SingularValues


@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
def test_singular_values_are_multiplied_between_their_own_vectors(family, rank, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = SingularValues(rank, layers=2, modules=("q_proj", "v_proj", "up_proj"), scale=0.5).bind(loaded, 0)
    named = dict(loaded.model.named_parameters())
    X = np.random.default_rng(0).standard_normal((2, bound.dimension))
    start = 0
    for delta in bound.deltas(torch.as_tensor(X)):
        weight = delta.target.read(named[delta.parameter])
        u, s, vt = np.linalg.svd(weight.numpy(), full_matrices=False)
        r = rank or len(s)
        for i in range(2):
            factors = np.ones(len(s))
            factors[:r] += 0.5 * X[i, start : start + r]
            changed = delta.target.read(delta.apply(named[delta.parameter].detach(), i))
            np.testing.assert_allclose(changed.numpy(), (u * (s * factors)) @ vt, atol=1e-11)
        start += r
    assert start == bound.dimension


def test_an_equal_change_of_all_values_scales_the_weight(small_model):
    loaded = small_model("llama", dtype=torch.float64)
    bound = SingularValues(layers=1, modules="*_proj", scale=1.0).bind(loaded, 0)
    named = dict(loaded.model.named_parameters())
    for delta in bound.deltas(torch.full((1, bound.dimension), 0.25, dtype=torch.float64)):
        torch.testing.assert_close(delta.apply(named[delta.parameter].detach(), 0), 1.25 * named[delta.parameter])
