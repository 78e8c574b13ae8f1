"""Which examples belong to a split, and which of them are drawn."""

from collections import Counter

import pytest
from hypothesis import given, settings
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


# Rows that belong together, shares, shots.

SPLITS = ("search", "dev", "test")


def split_of_each(records, **options):
    """text → its split, over what a task reads of the records."""
    task = classification(records, **options)
    return {text: split for split in SPLITS for text, _ in task.examples(split)}


@settings(max_examples=40, deadline=None)
@given(
    added=st.lists(st.tuples(st.text("abcdef ", min_size=1), st.integers(0, 200)), max_size=30),
    order=st.randoms(use_true_random=False),
    shares=st.sampled_from([(0.6, 0.2, 0.2), (0.5, 0.25, 0.25), (0.34, 0.33, 0.33)]),
    grouped=st.booleans(),
)
def test_no_row_moves_when_rows_are_added_or_put_in_another_order(added, order, shares, grouped):
    options = {"shares": shares, **({"group": "document"} if grouped else {})}
    rows = [{**row, "document": f"document {i // 3}"} for i, row in enumerate(records_of(TEXTS[:120]))]
    before = split_of_each(rows, **options)
    new = [{"text": f"new {text}", "label": "yes", "document": f"document {number}"} for text, number in added]
    order.shuffle(mixed := rows + new)
    after = split_of_each(mixed, **options)
    assert {text: after[text] for text in before} == before


def test_rows_of_a_group_are_in_one_split_whatever_else_they_say():
    rows = [{**row, "passage": f"passage {i // 7}"} for i, row in enumerate(records_of(TEXTS))]
    where = split_of_each(rows, group="passage")
    splits = {}
    for row in rows:
        splits.setdefault(row["passage"], set()).add(where[row["text"]])
    assert all(len(found) == 1 for found in splits.values())
    assert set(where.values()) == set(SPLITS)
    assert where != split_of_each(rows)


def test_duplicates_are_in_one_split():
    task = classification(records_of(TEXTS[:60] * 3))
    seen = [{text for text, _ in task.examples(split)} for split in SPLITS]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert sum(len(task.examples(split)) for split in SPLITS) == 180


@given(shares=st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_shares_are_kept_to(shares):
    search, dev, test = (share / sum(shares) for share in shares)
    counts = Counter(split_by_content(text, shares=(search, dev, test)) for text in TEXTS)
    for split, share in zip(SPLITS, (search, dev, test), strict=True):
        assert abs(counts[split] - 300 * share) < 5 * (300 * share * (1 - share)) ** 0.5 + 1  # standard deviations


def test_shots_are_of_each_class_and_fewer_are_among_more():
    records = [{"text": text, "label": "yes" if i % 5 else "no"} for i, text in enumerate(TEXTS)]
    drawn = {k: classification(records, shots=k).examples("search", seed=3) for k in (1, 4, 16)}
    for k, found in drawn.items():
        assert Counter(label for _, label in found) == {0: k, 1: k}
    assert set(drawn[1]) < set(drawn[4]) < set(drawn[16])
    assert classification(records, shots=4).examples("search", seed=4) != drawn[4]
    # The draw of `search_size`, said otherwise.
    assert classification(records, search_size=8).examples("search", seed=3) == drawn[4]
    whole = classification(records)
    assert [classification(records, shots=2).examples(s) for s in ("dev", "test")] == [
        whole.examples(s) for s in ("dev", "test")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 1000}, r"shots is 1000, and the search split of inline has \d+ examples of '(yes|no)'"),
        ({"shots": 4, "search_size": 8}, "not both"),
        ({"shots": 0}, "shots must be an integer of at least 1"),
        ({"shares": (0.5, 0.5)}, r"three positive numbers that sum to 1, got \(0\.5, 0\.5\)"),
        ({"shares": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"shares": "abc"}, "sum to 1, got 'abc'"),
        ({"shares": (0.8, 0.1, 0.1), "split": "label"}, "here the data say what each split is"),
        ({"group": "passage"}, "no column 'passage'"),
    ],
)
def test_what_cannot_be_split_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        classification(records_of(TEXTS), **options)
