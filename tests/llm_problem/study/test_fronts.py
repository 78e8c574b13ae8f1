"""Pictures of fronts, and what dominates what."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib import image
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from llm_problem.study.plots import COLOURS, front_png, non_dominated

FRONT = np.array([[0.0, 1.0], [0.1, 0.6], [0.3, 0.5]])


def picture(fronts, pretrained=(0.0, 1.0), title="a problem"):
    png = front_png(fronts, pretrained=pretrained, title=title, labels=("drift (nats per token)", "loss"))
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return png


def has_colour(png, colour):
    pixels = image.imread(io.BytesIO(png))
    wanted = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return bool((np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.02).any())


def test_a_colour_for_each_optimizer_and_one_for_the_pretrained_model():
    png = picture({"NSGA-II": FRONT, "DE": FRONT + 0.1})
    assert [has_colour(png, colour) for colour in COLOURS[:3]] == [True, True, False]
    far = picture({"NSGA-II": FRONT}, pretrained=(0.2, 0.9))
    assert far != picture({"NSGA-II": FRONT})


def test_dominated_points_and_the_order_do_not_show():
    more = np.concatenate([FRONT, FRONT + 0.05, [[np.nan, 0.0]]])[::-1]
    assert picture({"NSGA-II": more}) == picture({"NSGA-II": FRONT})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("F", [FRONT[:1], np.empty((0, 2)), np.full((3, 2), np.inf)])
def test_a_front_of_hardly_anything_is_drawn(F):
    picture({"DE": F}, title="t" * 300)


@given(F=arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.integers(0, 5).map(float)))
def test_what_is_not_dominated_is_pymoos_first_front(F):
    expected = np.zeros(len(F), dtype=bool)
    expected[NonDominatedSorting().do(F, only_non_dominated_front=True)] = True
    np.testing.assert_array_equal(non_dominated(F), expected)


def test_what_is_not_finite_is_on_no_front():
    F = np.array([[1.0, 2.0], [np.nan, 0.0], [0.0, np.inf], [-np.inf, -np.inf]])
    np.testing.assert_array_equal(non_dominated(F), [True, False, False, False])
