"""Rank tests and their correction, against worked examples and exact counts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_problem.study.statistics import holm, rank_test

values = st.lists(st.integers(-3, 3), min_size=2, max_size=8)


@settings(max_examples=50, deadline=None)
@given(values, values)
def test_the_effect_is_the_share_of_pairs_that_the_first_wins(first, second):
    pairs = list(itertools.product(first, second))
    won = sum((a < b) + (a == b) / 2 for a, b in pairs)
    assert rank_test(first, second).effect == pytest.approx(won / len(pairs))


def test_the_p_value_of_complete_separation_is_that_of_the_permutations():
    assert rank_test([1, 2, 3, 4], [5, 6, 7, 8]).p == pytest.approx(2 / 70)  # of the 8-choose-4 orders, both ends


def test_a_loss_that_is_not_finite_is_the_largest():
    assert rank_test([np.nan, np.inf, 3.0], [1.0, 2.0, 2.5]).effect == 0


def test_holm_steps_down_and_never_back():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])  # worked by hand
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize("sample", [[1.0], [], [[1.0, 2.0]]])
def test_what_cannot_be_compared_is_refused(sample):
    with pytest.raises(ValueError, match="two samples of two values or more"):
        rank_test(sample, [1.0, 2.0])
