"""Draws from logits, against the distribution that they are drawn from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_problem.generation import Decoding
from llm_problem.generation.choosing import drawn


def frequencies(logits, temperature, top_p, n=20_000):
    """How often each token is drawn over evenly spread quantiles."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = drawn(torch.tensor(logits)[None].expand(n, -1), u, temperature, top_p)
    return np.bincount(tokens.numpy(), minlength=len(logits)) / n


@settings(max_examples=25, deadline=None)
@given(
    logits=st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=8),
    temperature=st.floats(0.3, 3),
    top_p=st.floats(0.05, 1),
)
def test_tokens_come_as_often_as_the_cut_distribution_says(logits, temperature, top_p):
    p = np.exp(np.array(logits) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    # The fewest likeliest tokens that together reach top_p.
    count = int(np.searchsorted(np.cumsum(p[order]), top_p - 1e-12)) + 1
    near = np.abs(np.cumsum(p[order]) - top_p).min() < 1e-9
    expected = np.zeros_like(p)
    expected[order[:count]] = p[order[:count]] / p[order[:count]].sum()
    if not near:
        np.testing.assert_allclose(frequencies(logits, temperature, top_p), expected, atol=2e-4)


def test_a_low_temperature_takes_the_likeliest():
    np.testing.assert_array_equal(frequencies([0.0, 0.5, 0.4], 1e-4, 1.0), [0, 1, 0])


def test_what_is_ruled_out_is_never_drawn():
    assert frequencies([-np.inf, 0.0, 0.0, -np.inf], 1.0, 1.0).tolist() == [0, 0.5, 0.5, 0]
    last = drawn(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1 - 2**-53], dtype=torch.float64), 1.0)
    assert last.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer of at least 1, got 0"),
        ({"max_new_tokens": 2.0}, "max_new_tokens must be an integer"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"temperature": -0.1}, "temperature must be finite and not negative, got -0.1"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"temperature": True}, "temperature must be finite"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 1.1}, "top_p must be above 0"),
        ({"stop": ("",)}, "stop must be strings that are not empty"),
        ({"stop": (1,)}, "stop must be strings"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)


def test_one_stop_may_be_given_as_a_string():
    assert Decoding(stop="\n") == Decoding(stop=["\n"])
