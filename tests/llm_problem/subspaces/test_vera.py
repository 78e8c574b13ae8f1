"""VeRA against PEFT's own, which is given the shared matrices and both vectors."""

import copy

import numpy as np
import pytest
import torch
from peft import VeraConfig, get_peft_model

from llm_problem.subspaces import VeRA

MODULES = {
    "llama": ("q_proj", "v_proj", "down_proj"),  # three shapes
    "bert": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "mlp.c_proj"),  # stored as (in, out)
}


def peft_layers(loaded, bound):
    """PEFT's VeRA layers on a copy of the model, one a target, with the same A and B."""
    names = [target.parameter.removesuffix(".weight") for target in bound.targets]
    config = VeraConfig(r=bound.rank, target_modules=names, fan_in_fan_out=bound.targets[0].transposed)
    peft_model = get_peft_model(copy.deepcopy(loaded.model), config)
    shared = peft_model.base_model
    assert shared.vera_A["default"].shape == bound.A.shape
    assert shared.vera_B["default"].shape == bound.B.shape
    shared.vera_A["default"].copy_(bound.A)
    shared.vera_B["default"].copy_(bound.B)
    return [shared.model.get_submodule(name) for name in names]


@pytest.mark.parametrize(("scale", "rank"), [(None, 5), (0.3, 5), (None, 80)])  # the last above any rank of a weight
@pytest.mark.parametrize("searched", ["d", "b"])
@pytest.mark.parametrize("family", MODULES)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, for what PEFT calls
@torch.no_grad()
def test_change_is_pefts(family, searched, scale, rank, small_model):
    loaded = small_model(family)
    bound = VeRA(rank, layers=2, modules=MODULES[family], searched=searched, scale=scale).bind(loaded, 0)
    named = dict(loaded.model.named_parameters())
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, bound.dimension)))
    layers, parts = peft_layers(loaded, bound), x[0].split(bound.sizes)
    for delta, layer, part, fixed in zip(bound.deltas(x), layers, parts, bound.fixed, strict=True):
        free, constant = layer.vera_lambda_d["default"], layer.vera_lambda_b["default"]
        if searched == "b":
            free, constant = constant, free
        free.copy_(part)
        constant.fill_(fixed)
        change = delta.apply(torch.zeros_like(named[delta.parameter]), 0)
        torch.testing.assert_close(change, layer.get_delta_weight("default"), rtol=1e-4, atol=1e-6)
        assert scale is None or fixed == scale


@pytest.mark.parametrize("searched", ["d", "b"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_projections_fused_in_one_tensor_take_its_rows_of_b(family, searched, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = VeRA(4, layers=1, modules=("q_proj", "v_proj"), searched=searched, scale=0.5).bind(loaded, 0)
    hidden = 32
    place = np.arange(3 * hidden)
    if family == "gpt2":  # q, k, v one after another
        rows = [place[:hidden], place[2 * hidden :]]
    else:  # of four heads, each its q, k, v
        rows = [place.reshape(4, 3, 8)[:, k].ravel() for k in (0, 2)]
    A, B = bound.A.numpy(), bound.B.numpy()
    assert (A.shape, B.shape) == ((4, hidden), (3 * hidden, 4))
    X = np.random.default_rng(1).standard_normal((2, bound.dimension))
    parts = np.split(X, np.cumsum(bound.sizes)[:-1], axis=1)
    for delta, own, part in zip(bound.deltas(torch.from_numpy(X)), rows, parts, strict=True):
        for i, vector in enumerate(part):
            b, d = (np.full(hidden, 0.5), vector) if searched == "d" else (vector, np.full(4, 0.5))
            expected = np.diag(b) @ B[own] @ np.diag(d) @ A
            left, right = delta.factors(i)
            np.testing.assert_allclose((left @ right).numpy(), expected, atol=1e-12)


def test_the_matrices_are_uniform_with_kaimings_variance(tiny_gpt2):
    bound = VeRA(32, modules=("up_proj", "down_proj")).bind(tiny_gpt2, 0)
    for matrix in (bound.A, bound.B):
        limit = (6 / matrix.shape[1]) ** 0.5  # variance 2 / columns
        assert 0.98 * limit < matrix.abs().max() <= limit
        assert float(matrix.double().square().mean()) == pytest.approx(2 / matrix.shape[1], rel=0.05)
        assert abs(float(matrix.mean())) < 0.03 * limit


@pytest.mark.parametrize("searched", ["", "a", None, 3, ["d"]])
def test_another_vector_is_refused(searched):
    with pytest.raises(ValueError, match="searched must be one of d, b, got"):
        VeRA(searched=searched)
