"""Racing gives up those that are behind, and nothing that it lets through differs from evaluating."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_problem as lp
from llm_problem.racing import FEWEST, behind


@pytest.fixture(scope="module", params=["tiny_gpt2", "tiny_bert"])
def problem(request):
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    text = " ".join(words[k % 10] + words[(3 * k) % 10] for k in range(2000))
    task = lp.tasks.LanguageModelling.from_string(text, window=12, search_size=16, dev_size=2, test_size=2)
    return lp.Problem(request.getfixturevalue(request.param), task, lp.subspaces.LoRAXS(4, layers=1))


def test_what_stays_has_its_loss_and_what_goes_has_none(problem, points):
    X = points(12, problem.dimension)
    X[1:4] *= 40  # far off: hopeless
    losses, status = problem.race(X, problem.x0, rounds=4, z=2.0)
    expected = problem.evaluate(X)
    stays = status == "ok"
    np.testing.assert_allclose(losses[stays], expected[stays], atol=2e-6)
    assert stays[0]  # it equals the point to beat
    assert np.isnan(losses[~stays]).all()
    assert set(status) == {"ok", "censored"}
    assert (expected[~stays] > expected[0]).all()  # nothing better was given up
    again, once_more = problem.race(X, problem.x0, rounds=4, z=2.0)
    np.testing.assert_array_equal(again, losses)
    np.testing.assert_array_equal(once_more, status)


def test_patience_without_end_is_evaluating(problem, points):
    X = points(5, problem.dimension) * 10
    losses, status = problem.race(X, problem.x0, z=1e9)
    assert (status == "ok").all()
    np.testing.assert_allclose(losses, problem.evaluate(X), atol=1e-5)


def test_a_candidate_does_not_depend_on_the_others(problem, points):
    X = points(9, problem.dimension) * np.linspace(0, 30, 9)[:, None]
    losses, status = problem.race(X, X[1])
    for i in range(9):
        alone, one = problem.race(X[i : i + 1], X[1])
        assert one[0] == status[i]
        np.testing.assert_array_equal(alone, losses[i : i + 1])


def test_another_point_to_beat_is_another_race(problem, points):
    X = points(3, problem.dimension)
    hopeless = np.full(problem.dimension, 60.0)
    assert (problem.race(X, hopeless)[1] == "ok").all()
    assert problem.race(hopeless[None], problem.x0)[1][0] == "censored"


def test_what_is_not_finite_is_said_to_be_so(problem):
    X = np.zeros((3, problem.dimension))
    X[1] = np.nan
    X[2] = 1e30
    losses, status = problem.race(X, problem.x0)
    assert status.tolist() == ["ok", "non-finite", "non-finite"]
    assert np.isnan(losses[1:]).all()


def test_bad_arguments(problem, points):
    X = points(2, problem.dimension)
    with pytest.raises(ValueError, match="rounds must be from 1 to the 16"):
        problem.race(X, X[0], rounds=17)
    with pytest.raises(ValueError, match="z must not be negative"):
        problem.race(X, X[0], z=-1)
    with pytest.raises(ValueError, match="must have shape"):
        problem.race(X, X[0][:2])


@given(st.integers(0, 999), st.integers(1, 40), st.floats(0, 5))
def test_behind_is_a_paired_test(seed, count, z):
    rng = np.random.default_rng(seed)
    reference, difference = rng.standard_normal(count) * 10, rng.standard_normal(count)
    found = behind(reference + difference, reference, z)
    if count < FEWEST:
        assert not found
    else:
        t = difference.mean() / (difference.std(ddof=1) / np.sqrt(count))
        assert found == (t > z) or abs(t - z) < 1e-6
