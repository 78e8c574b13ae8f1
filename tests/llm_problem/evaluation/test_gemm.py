"""Frozen products: right by either library, chosen once, remembered, and shared by the problems on a model."""

import json

import numpy as np
import pytest
import torch

from llm_problem.evaluation import gemm
from llm_problem.evaluation.gemm import LIBRARIES, FrozenLinear, WeightStore, fastest_library

CPU = torch.device("cpu")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache folder, nothing remembered, and a count of measurements."""
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gemm, "_measured", {})
    asked = []
    monkeypatch.setattr(gemm, "_measure", lambda *shape: asked.append(shape) or "torch")
    return tmp_path / "cache" / gemm.CHOICES, asked


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 8, 5), (33, 48, 64), (200, 17, 3)])
def test_a_product_is_right(shape, bias, library):
    rows, inputs, outputs = shape
    if library == "onednn" and not gemm.onednn_works(torch.float32):
        pytest.skip("torch has no oneDNN operators here")
    generator = torch.Generator().manual_seed(1)
    x, w, b = (torch.randn(s, generator=generator) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
    found = FrozenLinear(w, b if bias else None, library)(x)
    expected = x.double() @ w.double().T + (b.double() if bias else 0)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-4)


def test_a_choice_is_measured_once_and_remembered_on_disk(fresh, monkeypatch):
    path, asked = fresh
    assert fastest_library(100, 64, 32, torch.float32, CPU) == "torch"
    assert fastest_library(128, 64, 32, torch.float32, CPU) == "torch"  # the same class of sizes
    assert len(asked) == 1
    known = json.loads(path.read_text())
    ((machine, choices),) = known.items()
    assert machine == gemm.machine() and list(choices.values()) == ["torch"]
    monkeypatch.setattr(gemm, "_measured", {})  # another process
    fastest_library(100, 64, 32, torch.float32, CPU)
    assert len(asked) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"a": {"b": "magic"}}'])
def test_a_broken_memory_is_measured_anew(content, fresh):
    path, asked = fresh
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert fastest_library(100, 64, 32, torch.float32, CPU) == "torch"
    assert len(asked) == 1
    assert not list(path.parent.glob(".*"))  # nothing half-written is left


def test_a_cache_that_cannot_be_written_is_done_without(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert fastest_library(100, 64, 32, torch.float32, CPU) == "torch"
    assert len(fresh[1]) == 1


def test_without_the_private_operators_torch_multiplies(fresh, monkeypatch):
    class Absent:
        def __getattr__(self, name):
            raise AttributeError(name)

    monkeypatch.setattr(torch.ops, "mkldnn", Absent())
    gemm.onednn_works.cache_clear()
    try:
        assert fastest_library(100, 64, 32, torch.float32, CPU) == "torch"
        assert fresh[1] == []
    finally:
        gemm.onednn_works.cache_clear()


def test_other_precisions_and_devices_are_torchs(fresh):
    assert fastest_library(100, 64, 32, torch.float64, CPU) == "torch"
    assert fastest_library(100, 64, 32, torch.float32, torch.device("meta")) == "torch"
    assert fresh[1] == []


def test_what_another_problem_packed_does_not_decide_the_library(monkeypatch):
    if not gemm.onednn_works(torch.float32):
        pytest.skip("torch has no oneDNN operators here")
    monkeypatch.setattr(gemm, "fastest_library", lambda rows, *_: "onednn" if rows > 100 else "torch")
    store, weight = WeightStore(limit=2**20), torch.ones(64, 64)
    many, few = (store.get("one", weight.shape, weight, lambda: (weight, None), rows) for rows in (500, 8))
    assert (many.library, few.library) == ("onednn", "torch")


def test_a_store_shares_forgets_and_keeps_to_its_limit(monkeypatch):
    if not gemm.onednn_works(torch.float32):
        pytest.skip("torch has no oneDNN operators here")
    monkeypatch.setattr(gemm, "fastest_library", lambda *_: "onednn")
    store, weight = WeightStore(limit=2 * 64 * 64 * 4), torch.ones(64, 64)
    one = store.get("one", weight.shape, weight, lambda: (weight, None), 8)
    assert store.get("one", weight.shape, weight, lambda: pytest.fail("built again"), 8) is one
    two = store.get("two", weight.shape, weight, lambda: (weight, None), 8)
    assert store.nbytes == 2 * 64 * 64 * 4
    three = store.get("three", weight.shape, weight, lambda: (weight, None), 8)
    assert (three.library, store.left_out) == ("torch", 1)
    low = store.get("one", weight.shape, weight, lambda: (weight, None), 8, torch.bfloat16)
    assert low is not one and low.dtype == torch.bfloat16
    del one, two, low
    assert store.nbytes == 0
