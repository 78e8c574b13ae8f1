"""The full vector: every trained number once."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import FullVector
from llm_problem.subspaces.scale import FULL_STEP


@pytest.mark.parametrize("tied", [True, False])
def test_tied_tensors_count_once(tied, small_model):
    loaded = small_model("llama", tie_word_embeddings=tied)
    bound = FullVector().bind(loaded, 0)
    unique = {parameter.data_ptr(): parameter.numel() for parameter in loaded.model.parameters()}
    assert bound.dimension == sum(unique.values())
    assert ("lm_head.weight" in bound.parameters) == (not tied)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_x_is_the_difference_of_the_parameters_in_the_models_order(family, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = FullVector(scale=0.5).bind(loaded, 0)
    x = np.arange(bound.dimension) / bound.dimension
    changes = [delta.value[0].reshape(-1) for delta in bound.deltas(torch.as_tensor(x)[None])]
    np.testing.assert_allclose(torch.cat(changes).numpy(), 0.5 * x)
    assert list(bound.parameters) == [name for name, _ in loaded.model.named_parameters()]


def test_scale_of_one_is_the_raw_difference(small_model):
    bound = FullVector(scale=1.0).bind(small_model("gpt2"), 0)
    x = torch.randn(1, bound.dimension)
    assert torch.equal(torch.cat([delta.value.reshape(-1) for delta in bound.deltas(x)]), x[0])


def test_default_step_is_a_set_share_of_the_parameters_root_mean_square(small_model):
    loaded = small_model("gpt2")
    theta = np.concatenate([parameter.detach().double().numpy().ravel() for parameter in loaded.model.parameters()])
    bound = FullVector().bind(loaded, 0)
    assert bound.scale == pytest.approx(FULL_STEP * np.sqrt(np.mean(theta**2)))


def test_theta0_is_the_pretrained_vector_in_units_of_x(small_model):
    loaded = small_model("gpt2")
    bound = FullVector(scale=0.25).bind(loaded, 0)
    theta = np.concatenate([parameter.detach().double().numpy().ravel() for parameter in loaded.model.parameters()])
    np.testing.assert_allclose(0.25 * bound.theta0().numpy(), theta)
