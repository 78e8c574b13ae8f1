"""Operators stand in the group that their name says."""

import pytest

from llm_problem.benchmarks.profiling import group_of


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "matrix products"),
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_softmax", "attention"),
        ("aten::_log_softmax", "the rest"),
        ("aten::native_layer_norm", "norms"),
        ("aten::rsqrt", "norms"),
        ("aten::silu", "activations"),
        ("aten::copy_", "the rest"),
    ],
)
def test_groups(operator, group):
    assert group_of(operator) == group
