"""Which examples belong to a split, and which of them are drawn."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_problem.tasks import Classification
from llm_problem.tasks.splits import require_split, split_by_content, stratified

TEXTS = [f"sentence number {i}" for i in range(300)]
LABELLED = [(text, i % 3) for i, text in enumerate(TEXTS)]


def classification(records, **options):
    return Classification.from_records(
        records, text="text", label="label", prompt="{text}", labels={"yes": " yes", "no": " no"}, **options
    )


def records_of(texts):
    return [{"text": text, "label": ("yes", "no")[i % 2]} for i, text in enumerate(texts)]


def test_shares_are_about_60_20_20():
    counts = Counter(split_by_content(f"text {i}") for i in range(5000))
    # Three standard deviations of a binomial: 3 √(5000 · 0.24) ≈ 104 and 3 √(5000 · 0.16) ≈ 85.
    assert abs(counts["search"] - 3000) < 104
    assert abs(counts["dev"] - 1000) < 85
    assert abs(counts["test"] - 1000) < 85


def test_the_split_of_a_text_is_what_it_always_was():
    # The first eight bytes of their sha256, from another program, as a share of 2⁶⁴: 0.176, 0.243, 0.791.
    assert [split_by_content(text) for text in ("hello", "b", "a")] == ["test", "dev", "search"]


@given(content=st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_splits_with_files_of_their_own_give_their_share_to_search(content):
    alone = split_by_content(content)
    assert split_by_content(content, without=["dev", "test"]) == "search"
    assert split_by_content(content, without=["test"]) == ("search" if alone == "test" else alone)


@given(extra=st.lists(st.text("abcdef ", min_size=1), max_size=30), cut=st.integers(0, 60))
def test_an_example_keeps_its_split_when_rows_are_added(extra, cut):
    before = classification(records_of(TEXTS[:60]))
    # Labels do not count either: only the text decides.
    after = classification(records_of(TEXTS[cut:60] + extra + TEXTS[:cut]))
    for split in ("search", "dev", "test"):
        kept = {text for text, _ in after.examples(split)} & set(TEXTS)
        assert kept == {text for text, _ in before.examples(split)}


def test_each_text_is_in_one_split():
    task = classification(records_of(TEXTS))
    texts = [text for split in ("search", "dev", "test") for text, _ in task.examples(split)]
    assert sorted(texts) == sorted(TEXTS)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "counts"), [(3, {1}), (30, {10}), (31, {10, 11}), (299, {99, 100})])
def test_a_draw_is_balanced_without_replacement_and_in_file_order(seed, size, counts):
    drawn = stratified(LABELLED, lambda item: item[1], size, seed)
    assert len(set(drawn)) == len(drawn) == size
    assert set(Counter(label for _, label in drawn).values()) == counts
    assert drawn == sorted(drawn, key=LABELLED.index)


def test_a_draw_follows_from_its_seed():
    draws = [tuple(stratified(LABELLED, lambda item: item[1], 12, seed)) for seed in (0, 0, 1, 2)]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


def test_a_rare_label_gives_what_it_has():
    items = [("a", 0)] * 50 + [("b", 1)] * 2
    assert Counter(label for _, label in stratified(items, lambda item: item[1], 20, 0)) == {0: 18, 1: 2}


@pytest.mark.parametrize("size", [None, 300, 1000])
def test_all_examples_where_no_fewer_are_asked_for(size):
    assert stratified(LABELLED, lambda item: item[1], size, 5) == LABELLED


def test_only_search_examples_follow_the_seed():
    task = classification(records_of(TEXTS), search_size=10, dev_size=10, test_size=10)
    assert task.examples("search", seed=0) != task.examples("search", seed=1)
    assert task.examples("dev", seed=0) == task.examples("dev", seed=1)
    assert task.examples("test", seed=0) == task.examples("test", seed=1)


@pytest.mark.parametrize("split", ["train", "Search", "", None])
def test_another_word_is_no_split(split):
    with pytest.raises(ValueError, match="one of search, dev, test, got"):
        require_split(split)
