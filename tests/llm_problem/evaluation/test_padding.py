"""Things of similar lengths come together, each once, within the limit."""

import numpy as np
import pytest

from llm_problem.evaluation.padding import ALWAYS_TOGETHER, WASTE, buckets, padded


@pytest.mark.parametrize("limit", [1, 50, 500, 4000])
@pytest.mark.parametrize("columns", [1, 2])
def test_buckets_partition_and_keep_their_promises(columns, limit):
    lengths = np.random.default_rng(0).integers(1, 90, (200, columns))
    found = buckets(lengths, limit)
    assert sorted(np.concatenate(found).tolist()) == list(range(200))
    for chosen in found:
        area = len(chosen) * lengths[chosen].max(axis=0).sum()
        assert len(chosen) == 1 or area <= limit
        assert len(chosen) == 1 or area <= max(ALWAYS_TOGETHER, (1 + WASTE) * lengths[chosen].sum())


def test_little_is_not_cut_and_nothing_is_nothing():
    assert [chosen.tolist() for chosen in buckets(np.array([[3, 9], [40, 1], [2, 9]]), 1000)] == [[1, 2, 0]]
    assert buckets(np.empty((0, 2), dtype=np.int64), 10) == []


def test_padding_stands_on_the_right_and_the_mask_knows_it():
    ids, mask = padded([np.array([5, 6, 7]), np.array([0]), np.array([8, 9])])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 0], [8, 9, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
