"""Peaks of the matrix products, and ours as a share of them."""

import weakref

import numpy as np
import pytest
import torch

from llm_problem.benchmarks import gemm, gemm_libraries
from llm_problem.benchmarks.settings import Settings

SETTINGS = Settings(model="tiny-gpt2", layers=(1,), sentences=4, rounds=3, least=0.004)
SHAPES = [(2, 64, 96, 384), (1, 64, 384, 96)]


def test_both_libraries_compute_the_same_product():
    if (missing := gemm_libraries.prepacked_missing()) is not None:
        pytest.skip(missing)
    shape = (33, 96, 40)
    expected = gemm_libraries.default_product(*shape)()
    assert expected.shape == (33, 40)
    torch.testing.assert_close(gemm_libraries.prepacked_product(*shape)(), expected, atol=1e-3, rtol=1e-4)


def test_a_torch_without_the_private_operators_leaves_that_library_out(monkeypatch):
    class NoOperators:
        pass

    monkeypatch.setattr(torch.ops, "mkldnn", NoOperators())
    # As in a process that never had them.
    monkeypatch.setattr("llm_problem.evaluation.gemm.onednn_works", lambda dtype: False)
    monkeypatch.setattr("llm_problem.evaluation.gemm._stores", weakref.WeakKeyDictionary())
    assert "_reorder_linear_weight" in gemm_libraries.prepacked_missing()
    monkeypatch.setattr(gemm, "gemms", lambda problem: SHAPES)
    report = gemm.gemm(SETTINGS)
    assert any("left out" in note for sheet in report.sheets for note in sheet.notes)
    assert set(report.figures["rows"][0]["peak_seconds"]) == {"default", "faster"}


def test_operators_that_compute_something_else_are_not_believed(monkeypatch):
    class Wrong:
        _reorder_linear_weight = staticmethod(lambda weight, m: weight)
        _linear_pointwise = staticmethod(lambda x, weight, *rest: 2 * x @ weight.T)

    monkeypatch.setattr(torch.ops, "mkldnn", Wrong())
    assert "differ" in gemm_libraries.prepacked_missing()


def test_share_of_peak_is_the_products_time_over_the_evaluation_s(monkeypatch):
    monkeypatch.setattr(gemm, "gemms", lambda problem: SHAPES)
    report = gemm.gemm(SETTINGS)
    (row,) = report.figures["rows"]
    assert row["flop"] == 2 * 3 * 64 * 96 * 384
    seconds = row["seconds"]
    libraries = [name for name in ("default", "prepacked") if name in row["peak_seconds"]]
    by_hand = sum(
        count * min((seconds[f"{name} {m}x{k}x{n}"] for name in libraries), key=np.median) for count, m, k, n in SHAPES
    )
    np.testing.assert_allclose(row["peak_seconds"]["faster"], by_hand)
    np.testing.assert_allclose(row["share_of_peak"], by_hand / seconds["ours"])
    assert [r[0] for r in report.sheets[1].rows] == ["64 × 96 × 384", "64 × 384 × 96"]
    assert report.sheets[1].rows[0][-1] == "2× in 1"


def test_an_evaluator_without_a_list_leaves_the_columns_empty(monkeypatch):
    monkeypatch.setattr(gemm, "gemms", lambda problem: None)
    report = gemm.gemm(SETTINGS)
    (sheet,) = report.sheets
    assert sheet.rows[0][1] == "" and sheet.rows[0][2] != "" and sheet.rows[0][-1] == ""
    assert any("does not list" in note for note in sheet.notes)
