"""Convergence pictures: a PNG for whatever a run can give."""

import io
import sys

import numpy as np
import pytest
from matplotlib import image

from llm_problem.study.plots import COLOURS, STYLES, convergence_png


def picture(histories=None, baseline=1.0, title="a problem, seed 0", **options):
    if histories is None:
        histories = {"cma": [1.0, 0.8, 0.9, 0.5], "random-search": [1.0, 1.1, 0.9]}
    png = convergence_png(histories, baseline=baseline, title=title, **options)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return png, image.imread(io.BytesIO(png))


def has_colour(pixels, colour):
    wanted = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    return bool((np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.02).any())


def test_a_line_for_each_optimizer_and_one_for_the_pretrained_model():
    _, pixels = picture()
    assert pixels.shape == (720, 1200, 4)
    assert [has_colour(pixels, colour) for colour in COLOURS[:3]] == [True, True, False]
    assert has_colour(pixels, "#737373")  # 0.45 grey
    _, alone = picture({})
    assert not any(has_colour(alone, colour) for colour in COLOURS[:2])


def test_the_same_run_gives_the_same_bytes():
    assert picture()[0] == picture()[0]


def test_the_best_so_far_is_drawn_not_the_losses():
    losses = [1.0, 0.8, 0.9, 0.5]
    assert picture({"cma": losses})[0] == picture({"cma": np.minimum.accumulate(losses)})[0]


def test_losses_that_are_not_finite_are_passed_over():
    finite = picture({"cma": [2.0, 2.0, 0.5, 0.5]})[0]
    assert picture({"cma": [2.0, np.nan, 0.5, -np.inf]})[0] == finite
    picture({"cma": [np.inf, np.nan, 0.5, 0.4]})


@pytest.mark.filterwarnings("error")  # a layout that gives up warns
@pytest.mark.parametrize(
    "options",
    [
        {"histories": {"cma": [np.nan, np.inf]}},
        {"histories": {"cma": []}},
        {"histories": {"cma": [0.5]}},
        {"baseline": float("nan")},
        {"baseline": float("inf")},
        {"title": "t" * 500},
        {"title": "a_b^{c $x$ \\frac", "ylabel": "$y"},
        {"histories": {"$odd^{ name": [1.0, 0.5]}},
        {"histories": {f"nevergrad:SomeOptimizer{i}WithALongName{'e' * 30}": [1.0, 1.0 - i / 100] for i in range(40)}},
    ],
)
def test_nothing_that_a_run_can_give_spoils_the_picture(options):
    picture(**options)


def test_many_optimizers_are_told_apart():
    styles = {(colour, style) for style in STYLES for colour in COLOURS}
    assert len(styles) == len(STYLES) * len(COLOURS) >= 28


def test_pyplot_stays_out_of_it():
    before = "matplotlib.pyplot" in sys.modules
    picture()
    assert ("matplotlib.pyplot" in sys.modules) == before
