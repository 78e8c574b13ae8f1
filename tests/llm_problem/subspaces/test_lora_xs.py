"""LoRA-XS against numpy's own singular value decomposition."""

import numpy as np
import pytest
import torch

from llm_problem.subspaces import LoRAXS
from llm_problem.subspaces.low_rank import truncated_svd


def changes(bound, X):
    """(n, targets) list of ΔW (out, in) as arrays."""
    return [
        [(delta.left @ delta.core[i] @ delta.right).numpy() for delta in bound.deltas(torch.as_tensor(X))]
        for i in range(len(X))
    ]


def weights(loaded, bound):
    named = dict(loaded.model.named_parameters())
    return [target.read(named[target.parameter].detach()).numpy() for target in bound.targets]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
def test_change_is_the_core_between_the_leading_singular_vectors(family, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = LoRAXS(3, layers=2, modules=("q_proj", "v_proj", "up_proj"), scale=0.7).bind(loaded, 0)
    x = np.random.default_rng(0).standard_normal((1, bound.dimension))
    cores = x.reshape(-1, 3, 3)
    for weight, change, core in zip(weights(loaded, bound), changes(bound, x)[0], cores, strict=True):
        u, s, vt = np.linalg.svd(weight, full_matrices=False)
        u, s, vt = u[:, :3], s[:3], vt[:3]
        np.testing.assert_allclose(u @ u.T @ change @ vt.T @ vt, change, atol=1e-12)  # in the span of both
        seen = np.diag(1 / s) @ u.T @ change @ vt.T / 0.7  # Σ⁻¹ Uᵀ ΔW V / s, the core up to the signs of the vectors
        np.testing.assert_allclose(np.abs(seen), np.abs(core), atol=1e-10)


def test_signs_make_each_right_vector_sum_to_a_positive_number():
    for seed in range(5):
        weight = np.random.default_rng(seed).standard_normal((6, 9))
        left, right = truncated_svd(weight, 4)
        assert (right.sum(axis=1) >= 0).all()
        u, s, vt = np.linalg.svd(weight, full_matrices=False)
        np.testing.assert_allclose(left @ right, (u[:, :4] * s[:4]) @ vt[:4], atol=1e-12)


def test_cores_stand_row_by_row_in_the_order_of_the_layers(small_model):
    bound = LoRAXS(2, layers=2).bind(small_model("llama"), 0)
    deltas = bound.deltas(torch.arange(16.0)[None])
    assert [delta.parameter.split(".", 2)[2] for delta in deltas] == [
        "1.self_attn.q_proj.weight",
        "1.self_attn.v_proj.weight",
        "2.self_attn.q_proj.weight",
        "2.self_attn.v_proj.weight",
    ]
    assert deltas[1].core[0].tolist() == [[4, 5], [6, 7]]
