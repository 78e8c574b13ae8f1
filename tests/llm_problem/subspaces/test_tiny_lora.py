"""TinyLoRA against numpy."""

import numpy as np
import psutil
import pytest
import torch

from llm_problem.subspaces import TinyLoRA


def read_changes(loaded, bound, X):
    """For each target, ΔW (n, out, in) as the stored tensors show it."""
    named = dict(loaded.model.named_parameters())
    found = []
    for delta in bound.deltas(torch.as_tensor(X)):
        zeros = torch.zeros(named[delta.parameter].shape, dtype=torch.float64)
        found.append(np.stack([delta.target.read(delta.apply(zeros, i)).numpy() for i in range(len(X))]))
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "bert"])
def test_one_vector_mixes_the_drawn_cores_of_every_weight(family, small_model):
    loaded = small_model(family, dtype=torch.float64)
    bound = TinyLoRA(5, rank=3, layers=2, modules=("q_proj", "v_proj", "up_proj"), scale=0.7).bind(loaded, 4)
    named = dict(loaded.model.named_parameters())
    X = np.random.default_rng(0).standard_normal((2, 5))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([4, 0x717A])))
    P = rng.standard_normal((5, 6, 3, 3)) / np.sqrt(3)  # (d, weights, r, r) ~ N(0, 1/r)
    for k, (target, change) in enumerate(zip(bound.targets, read_changes(loaded, bound, X), strict=True)):
        u, s, vt = np.linalg.svd(target.read(named[target.parameter]).numpy(), full_matrices=False)
        flip = np.sign(vt.sum(axis=1))
        left, right = (u * s * flip)[:, :3], (vt * flip[:, None])[:3]
        for i, v in enumerate(X):
            core = sum(v[j] * P[j, k] for j in range(5))
            np.testing.assert_allclose(change[i], 0.7 * left @ core @ right, atol=1e-11)


@pytest.mark.parametrize("rank", [1, 3])
def test_changes_lie_between_the_leading_singular_vectors(rank, small_model):
    loaded = small_model("llama", dtype=torch.float64)
    bound = TinyLoRA(2, rank=rank, layers=1).bind(loaded, 0)
    named = dict(loaded.model.named_parameters())
    for target, (change, _) in zip(bound.targets, read_changes(loaded, bound, np.eye(2)), strict=True):
        u, _, vt = np.linalg.svd(named[target.parameter].numpy(), full_matrices=False)
        np.testing.assert_allclose(u[:, :rank] @ u[:, :rank].T @ change @ vt[:rank].T @ vt[:rank], change, atol=1e-12)
        assert np.linalg.matrix_rank(change) == rank


def test_more_dimensions_begin_with_the_same_directions(small_model):
    loaded = small_model("llama", dtype=torch.float64)
    few, many = (TinyLoRA(d, rank=2, layers=2, scale=1.0).bind(loaded, 5) for d in (3, 9))
    few, many = read_changes(loaded, few, np.eye(3)), read_changes(loaded, many, np.eye(9))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:3])


def test_more_dimensions_than_core_entries_are_refused(small_model):
    loaded = small_model("llama")
    assert TinyLoRA(8, rank=2, layers=1).bind(loaded, 0).dimension == 8
    with pytest.raises(ValueError, match=r"dimension 9 is above the number of core entries, 8 \(rank 2 on 2 weights\)"):
        TinyLoRA(9, rank=2, layers=1).bind(loaded, 0)


def test_a_projection_that_does_not_fit_into_memory_is_refused_before_it_is_drawn(small_model, monkeypatch):
    class Little:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Little)
    with pytest.raises(ValueError, match=r"GiB are free: choose fewer modules or layers, a smaller rank or a smaller"):
        TinyLoRA(13, rank=8, layers=1).bind(small_model("llama"), 0)


@pytest.mark.parametrize("dimension", [0, -3, 2.0, True])
def test_dimension_must_be_a_positive_integer(dimension):
    with pytest.raises(ValueError, match="dimension must be an integer of at least 1"):
        TinyLoRA(dimension)
