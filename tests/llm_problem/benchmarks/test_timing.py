"""Turns, ratios and the comparison of losses."""

import time

import numpy as np
import pytest

from llm_problem.benchmarks.timing import Contestant, figure, interleave, largest_difference, race, spread


def test_everyone_has_a_turn_in_every_round_and_not_always_in_the_same_order():
    calls = []
    names = ("a", "b", "c")
    seconds = interleave({name: (lambda repeat, name=name: calls.append(name)) for name in names}, 3, 0.0)
    assert calls[:3] == ["a", "b", "c"]  # the turn that does not count
    turns = [tuple(calls[start : start + 3]) for start in range(3, 12, 3)]
    assert turns == [("b", "c", "a"), ("c", "a", "b"), ("a", "b", "c")]
    assert all(values.shape == (3,) and (values > 0).all() for values in seconds.values())


def test_short_calls_are_repeated_until_the_turn_has_lasted():
    repeats = {"short": [], "long": []}

    def short(repeat):
        repeats["short"].append(repeat)
        time.sleep(0.001)

    def long(repeat):
        repeats["long"].append(repeat)
        time.sleep(0.02)

    seconds = interleave({"short": short, "long": long}, 2, 0.01)
    assert max(repeats["short"]) >= 2 and max(repeats["long"]) <= 1
    assert np.median(seconds["short"]) < np.median(seconds["long"])


def test_ratios_are_of_one_turn_and_seconds_of_one_evaluation():
    def slow(X):
        time.sleep(0.01)
        return X.sum(axis=1)

    outcome = race([Contestant("one", slow), Contestant("four", slow, width=4)], dimension=3, rounds=2, least=0.0)
    assert outcome.losses_apart == 0
    np.testing.assert_array_equal(outcome.ratio("one", "four"), outcome.seconds["one"] / outcome.seconds["four"])
    assert np.median(outcome.ratio("one", "four")) > 1.5  # 4 but for noise


def test_all_evaluate_the_same_fresh_points():
    seen = {"one": [], "two": []}

    def watcher(name):
        def losses(X):
            seen[name].extend(X[:, 0])
            return X[:, 0]

        return losses

    outcome = race([Contestant("one", watcher("one")), Contestant("two", watcher("two"), 2)], 2, rounds=3, least=0.0)
    assert outcome.losses_apart == 0
    assert seen["one"] == seen["two"][::2]  # one point a turn, and two that begin with it
    assert len(seen["one"]) == len(set(seen["one"])) == 4


def test_a_loss_that_differs_shows():
    wrong = [Contestant("right", lambda X: X[:, 0]), Contestant("wrong", lambda X: X[:, 0] + 0.25, 2)]
    assert race(wrong, 2, rounds=1, least=0.0).losses_apart == pytest.approx(0.25)
    wrong[1] = Contestant("nan", lambda X: np.full(len(X), np.nan))
    assert np.isnan(race(wrong, 2, rounds=1, least=0.0).losses_apart)


def test_losses_are_compared_as_far_as_both_have_them():
    a, b = np.array([1.0, 2.0]), np.array([1.0, 2.5, 9.0])
    assert largest_difference({"a": [a], "b": [b[:2], b[2:]]}) == 0.5
    assert largest_difference({"a": [a], "none": []}) == 0


def test_figures_are_short():
    assert [figure(v) for v in (12345.6, 99.95, 0.0123456, 1.2e-7)] == ["12,346", "100", "0.0123", "1.2e-07"]
    assert spread(np.array([1.0, 2.0, 3.0])) == "2\n[1.5–2.5]"
