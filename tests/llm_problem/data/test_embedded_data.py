"""The embedded data is complete, balanced and free of near-duplicates."""

import csv
import io
import re
from collections import Counter, defaultdict
from importlib.resources import files
from itertools import combinations
from statistics import median

import pytest

DATA = files("llm_problem") / "data"
SPLIT_SIZES = {"search": 240, "dev": 120, "test": 240}
LABELS = ("positive", "negative")


def words(text):
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)*", text.lower())


def best_threshold_accuracy(rows):
    """Accuracy of the best rule of the form 'at least n words', either way."""
    sizes = [(len(row["text"].split()), row["label"]) for row in rows]
    best = 0.0
    for threshold in range(max(size for size, _ in sizes) + 2):
        hits = sum((size >= threshold) == (label == "positive") for size, label in sizes)
        accuracy = hits / len(sizes)
        best = max(best, accuracy, 1 - accuracy)
    return best


@pytest.fixture(scope="module")
def raw():
    return (DATA / "sentiment.csv").read_bytes()


@pytest.fixture(scope="module")
def rows(raw):
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline="")))


@pytest.fixture(scope="module")
def prose():
    return (DATA / "prose.txt").read_bytes().decode("ascii")


def test_header_and_line_ends(raw):
    assert raw.startswith(b"text,label,split\n")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")


def test_every_row_has_exactly_three_fields(raw):
    records = list(csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True))
    assert {len(record) for record in records} == {3}


def test_labels_and_splits(rows):
    assert {row["label"] for row in rows} == set(LABELS)
    assert {row["split"] for row in rows} == set(SPLIT_SIZES)


def test_counts_are_balanced_in_each_split(rows):
    counts = Counter((row["split"], row["label"]) for row in rows)
    assert counts == {(split, label): size // 2 for split, size in SPLIT_SIZES.items() for label in LABELS}


def test_rows_are_mixed(rows):
    # Code that takes the first rows of a split must get both classes.
    for split, size in SPLIT_SIZES.items():
        head = [row["label"] for row in rows if row["split"] == split][: size // 4]
        share = head.count("positive") / len(head)
        assert 0.3 <= share <= 0.7, split


def test_texts_are_neither_empty_nor_long(rows):
    for row in rows:
        text = row["text"]
        assert text == text.strip()
        assert "\n" not in text
        assert 4 <= len(text.split()) <= 35, text


def test_lengths_are_alike_in_both_classes(rows):
    by_label = {label: [len(row["text"].split()) for row in rows if row["label"] == label] for label in LABELS}
    assert abs(median(by_label["positive"]) - median(by_label["negative"])) <= 1
    assert all(11 <= median(sizes) <= 14 for sizes in by_label.values())


@pytest.mark.parametrize("split", [*SPLIT_SIZES, None])
def test_length_does_not_give_the_class_away(rows, split):
    chosen = [row for row in rows if split is None or row["split"] == split]
    assert best_threshold_accuracy(chosen) < 0.6


def test_label_words_are_not_in_the_texts(rows):
    telltale = {"positive", "negative", "great", "terrible"}
    assert not [row["text"] for row in rows if telltale & set(words(row["text"]))]


def test_no_two_texts_have_similar_word_sets(rows):
    texts = [(frozenset(words(row["text"])), row["text"]) for row in rows]
    offenders = [(first, second) for (a, first), (b, second) in combinations(texts, 2) if 2 * len(a & b) >= len(a | b)]
    assert not offenders


def test_no_two_texts_share_six_words_in_a_row(rows):
    seen = defaultdict(set)
    for index, row in enumerate(rows):
        tokens = words(row["text"])
        for start in range(len(tokens) - 5):
            seen[tuple(tokens[start : start + 6])].add(index)
    shared = {" ".join(run) for run, where in seen.items() if len(where) > 1}
    assert not shared


def test_openings_are_varied(rows):
    openings = Counter(tuple(words(row["text"])[:2]) for row in rows)
    opening, count = openings.most_common(1)[0]
    assert count <= 8, opening


def test_prose_length_and_layout(prose):
    assert 6000 <= len(prose.split()) <= 7000
    assert max(map(len, prose.splitlines())) <= 80
    assert "\r" not in prose
    assert "\t" not in prose
    assert prose.endswith("\n")


def test_prose_has_twelve_sections_of_running_text(prose):
    blocks = prose.strip().split("\n\n")
    titles = [block for block in blocks if re.match(r"\d+\. [A-Z]", block)]
    assert [int(title.split(".")[0]) for title in titles] == list(range(1, 13))
    paragraphs = [block for block in blocks[1:] if block not in titles]
    assert len(paragraphs) == len(set(paragraphs))
    assert median(len(paragraph.split()) for paragraph in paragraphs) > 60


def test_prose_does_not_repeat_itself(prose):
    tokens = words(prose)
    runs = Counter(tuple(tokens[i : i + 8]) for i in range(len(tokens) - 7))
    assert max(runs.values()) == 1
