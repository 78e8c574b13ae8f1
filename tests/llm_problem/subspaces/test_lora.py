"""LoRA with a frozen A against numpy."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import LoRA


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
def test_change_is_the_searched_b_times_the_drawn_a(family, small_model):
    loaded = small_model(family, dtype=torch.float64)
    modules = ("q_proj", "v_proj", "down_proj")
    bound = LoRA(3, layers=2, modules=modules, scale=0.7).bind(loaded, 11)
    X = np.random.default_rng(0).standard_normal((2, bound.dimension))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([11, 0x10FA])))
    start = 0
    for delta in bound.deltas(torch.as_tensor(X)):
        outputs, inputs = delta.target.shape
        A = rng.standard_normal((3, inputs)) / np.sqrt(inputs)
        for i in range(2):
            B = X[i, start : start + 3 * outputs].reshape(outputs, 3)  # row by row
            stored = torch.zeros(dict(loaded.model.named_parameters())[delta.parameter].shape, dtype=torch.float64)
            change = delta.target.read(delta.apply(stored, i)).numpy()
            np.testing.assert_allclose(change, 0.7 * B @ A, atol=1e-12)
        start += 3 * outputs
    assert start == bound.dimension


def test_a_is_gaussian_with_the_variance_of_one_over_the_inputs(tiny_gpt2):
    bound = LoRA(16, modules=("q_proj", "down_proj"), scale=1.0).bind(tiny_gpt2, 0)
    for target, right in zip(bound.targets, bound.right, strict=True):
        draws = right.double().numpy() * np.sqrt(target.shape[1])
        assert abs(draws.mean()) < 0.1
        assert draws.std() == pytest.approx(1, abs=0.1)
    pooled = np.concatenate([(r * r.shape[1] ** 0.5).double().numpy().ravel() for r in bound.right])
    assert np.mean(pooled**4) == pytest.approx(3, abs=0.25)  # the kurtosis of a Gaussian


def test_every_weight_has_an_a_of_its_own(small_model):
    bound = LoRA(2, layers=2, modules=("q_proj", "k_proj"), scale=1.0).bind(small_model("llama"), 0)
    flat = np.stack([right.numpy().ravel() for right in bound.right])
    assert np.abs(np.corrcoef(flat)[~np.eye(len(flat), dtype=bool)]).max() < 0.6


def test_a_weight_of_zeros_can_be_searched_where_a_scale_is_given(small_model):
    loaded = small_model("llama")
    with torch.no_grad():
        loaded.model.model.layers[2].self_attn.v_proj.weight.zero_()
    bound = LoRA(2, layers=1, modules="v_proj", scale=0.5).bind(loaded, 0)
    (delta,) = bound.deltas(torch.ones(1, bound.dimension))
    assert delta.apply(loaded.model.model.layers[2].self_attn.v_proj.weight, 0).abs().max() > 0
