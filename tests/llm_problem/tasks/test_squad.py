"""Worked cases of the SQuAD v1.1 scores, each reckoned by hand from the official definition."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_problem.tasks.squad import best, exact_match, f1

CASES = [  # answer, right answer, exact match, F1
    ("Denver Broncos", "Denver Broncos", 1, 1.0),
    ("the Denver Broncos!", "denver broncos", 1, 1.0),
    ("Denver", "Denver Broncos", 0, 2 / 3),  # precision 1, recall 1/2
    ("The Carolina Panthers lost", "Carolina Panthers", 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
    ("Panthers", "Broncos", 0, 0.0),
    ("a an the", "the", 1, 0.0),  # nothing is left of either: equal, and no word is shared
    ("", "Denver", 0, 0.0),
    ("to be or not to be", "to be", 0, 2 * (2 / 6) * 1 / (2 / 6 + 1)),
    ("to be", "to be or not to be", 0, 2 * 1 * (2 / 6) / (1 + 2 / 6)),
    ("U.S.", "US", 1, 1.0),  # punctuation goes without leaving a space
    ("twenty-one", "twenty one", 0, 0.0),
    ("theatre", "atre", 0, 0.0),  # articles are whole words
    ("anthem  of\tthe\nband", "Anthem of band", 1, 1.0),
    ("Café", "cafe", 0, 0.0),  # accents stay
    ("10%", "10", 1, 1.0),
]


@pytest.mark.parametrize(("answer", "right", "em", "overlap"), CASES)
def test_worked_cases(answer, right, em, overlap):
    assert exact_match(answer, right) == em
    assert f1(answer, right) == pytest.approx(overlap, abs=1e-12)


def test_the_best_of_several_answers_counts():
    rights = ("Santa Clara, California", "Levi's Stadium", "Levi's Stadium in Santa Clara")
    assert best(exact_match, "levis stadium", rights) == 1
    assert best(f1, "the stadium in Santa Clara", rights) == pytest.approx(2 * 1 * (4 / 5) / (1 + 4 / 5))


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_scores_are_symmetric_shares_and_blind_to_what_normalising_removes(first, second):
    assert f1(first, second) == pytest.approx(f1(second, first))
    assert 0 <= exact_match(first, second) <= 1 and 0 <= f1(first, second) <= 1
    assert exact_match(first, f" The {first}. ") == 1
