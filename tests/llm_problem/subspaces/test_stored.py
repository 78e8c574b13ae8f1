"""Bases in files: the same map elsewhere, and nothing else taken for it."""

import copy
import dataclasses
import os
import pickle
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import llm_problem as lp
from llm_problem.subspaces import SUBSPACES, LoRAXS, RandomSubspace
from llm_problem.subspaces.deltas import EmbeddingDelta, PrefixDelta
from llm_problem.subspaces.stored import load_basis, save_basis
from tests.llm_problem.subspace_examples import example


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", SUBSPACES)
def test_a_stored_basis_gives_the_same_map(kind, family, small_model, tmp_path):
    loaded = small_model(family)
    subspace = example(kind, loaded)
    bound, other = subspace.bind(loaded, 0), subspace.bind(loaded, 1)
    save_basis(bound, tmp_path / "basis")
    assert [path.name for path in tmp_path.iterdir()] == ["basis"]
    with torch.no_grad():
        for tensor in other.basis():
            tensor.mul_(3)
    assert other.basis_hash() != bound.basis_hash()
    load_basis(other, tmp_path / "basis")
    assert other.basis_hash() == bound.basis_hash()
    x = torch.randn((2, bound.dimension), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    named = dict(loaded.model.named_parameters())
    for mine, theirs in zip(bound.deltas(x), other.deltas(x), strict=True):
        if isinstance(mine, EmbeddingDelta):
            assert torch.equal(mine.value, theirs.value)
        elif isinstance(mine, PrefixDelta):
            assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)
        else:
            assert torch.equal(*(d.apply(named[d.parameter].detach(), 1) for d in (mine, theirs)))


@pytest.fixture
def rotated(text_task, tmp_path):
    """A problem, and a file with another basis of the same subspace, as another machine's decomposition would be."""
    problem = lp.Problem("tiny-gpt2", text_task, LoRAXS(2, layers=1))
    problem.save_basis(tmp_path / "own")
    with safe_open(tmp_path / "own", framework="pt") as file:
        metadata = file.metadata()
    own, turned = problem.subspace.inner, copy.copy(problem.subspace)
    turned.inner = copy.copy(own)
    turned.inner.left, turned.inner.right = [-left for left in own.left], [r.flip(0) for r in own.right]
    save_basis(turned, tmp_path / "basis", metadata["belongs_to"])
    return problem, tmp_path / "basis", turned


ELSEWHERE = """
import pickle, sys, numpy, torch
torch.set_num_threads(1)
problem = pickle.load(open(sys.argv[1], "rb"))
print(float.hex(problem(numpy.ones(problem.dimension))), problem.card()["basis_sha256"])
"""


def test_a_problem_takes_the_stored_basis_and_its_pickles_and_copies_find_it_again(rotated, text_task, tmp_path):
    problem, path, turned = rotated
    x = np.ones(problem.dimension)
    other = lp.Problem.from_spec(problem.spec, basis=path)  # with its units; they would be measured anew on the basis
    assert other.fingerprint == problem.fingerprint
    assert other.card()["basis_sha256"] == turned.basis_hash()
    assert other(x) != problem(x)
    assert problem(x) == lp.Problem("tiny-gpt2", text_task, LoRAXS(2, layers=1))(x)  # none of it has spread
    serial = lp.Problem.from_spec(dataclasses.replace(problem.spec, evaluator="serial"), basis=str(path))
    assert serial(x) == pytest.approx(other(x), abs=1e-5)
    for twin in (
        pickle.loads(pickle.dumps(other)),
        copy.deepcopy(other),
        lp.Problem.from_spec(other.spec, basis=path),
        other.to_nevergrad().copy().problem,
    ):
        assert twin(x) == other(x)
    (tmp_path / "pickle").write_bytes(pickle.dumps(other))
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "pickle")], capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [float.hex(other(x)), turned.basis_hash()]


def test_a_basis_of_another_subspace_seed_or_model_is_refused(rotated, text_task):
    _, path, _ = rotated
    for model, subspace, seed in (
        ("tiny-gpt2", LoRAXS(2, layers=1), 1),
        ("tiny-gpt2", LoRAXS(2, layers=1, modules=("q_proj", "k_proj")), 0),
        ("tiny-bert", LoRAXS(2, layers=1), 0),
    ):
        with pytest.raises(ValueError, match="is that of another subspace, seed or model"):
            lp.Problem(model, text_task, subspace, seed=seed, basis=path)


def test_nothing_is_overwritten(rotated):
    problem, path, _ = rotated
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="is not overwritten"):
        problem.save_basis(path)
    assert path.read_bytes() == before


def test_files_that_do_not_fit_are_refused_and_change_nothing(rotated, small_model, tmp_path):
    problem, path, _ = rotated
    bound, before = problem.subspace, problem.subspace.basis_hash()
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    first = tensors["basis.0"]
    cases = [
        ({**tensors, "basis.0": first.double()}, r"tensor 0 in .* is \(\d+, 2\) float64, the subspace's is .* float32"),
        ({**tensors, "basis.0": first[:, :1].clone()}, r"tensor 0 in .* is \(\d+, 1\) float32"),
        ({k: t for k, t in tensors.items() if k != "basis.0"}, "holds 3 tensors, the subspace has 4"),
        ({**tensors, "basis.0": first + 1}, "is damaged: its sha256"),
    ]
    for number, (changed, message) in enumerate(cases):
        save_file(changed, tmp_path / str(number), metadata=metadata)
        with pytest.raises(ValueError, match=message):
            load_basis(bound, tmp_path / str(number))
    save_file(tensors, tmp_path / "plain")
    (tmp_path / "text").write_text("no tensors at all")
    for name, message in (("plain", "no basis that save_basis"), ("text", "cannot read"), ("none", "cannot read")):
        with pytest.raises(ValueError, match=message):
            load_basis(bound, tmp_path / name)
    assert bound.basis_hash() == before


def test_a_basis_of_views_is_stored(small_model, tmp_path):
    loaded = small_model("llama")
    bound = RandomSubspace(4, layers=1).bind(loaded, 0)
    whole = torch.stack([p.flatten() for p in bound.projections[:1] * 2])
    bound.projections[0] = whole[1].view(bound.projections[0].shape)
    save_basis(bound, tmp_path / "basis")
    load_basis(bound, tmp_path / "basis")


def test_whom_the_umask_lets_in_can_read_a_basis(small_model, tmp_path):
    before = os.umask(0o022)
    try:
        save_basis(LoRAXS(2, layers=1).bind(small_model("llama"), 0), tmp_path / "basis")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "basis").stat().st_mode) == 0o644
