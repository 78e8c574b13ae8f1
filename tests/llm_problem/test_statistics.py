"""Standard errors and intervals: against scipy's bootstrap, against formulas, and on problems."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipys

import llm_problem as lp
from llm_problem.statistics import Scored, bootstrap, compare

SCORES = np.random.default_rng(5).gamma(2.0, size=90)
OTHERS = SCORES + np.random.default_rng(6).normal(0.1, 0.3, size=90)
DRAWS = 6000
MONTE_CARLO = 0.05  # of a standard error; ends of an interval vary by about 2.7 / √DRAWS of one, twice


def by_scipy(*scores, statistic=np.mean, **options):
    found = scipys(
        scores, statistic, n_resamples=DRAWS, method="percentile", rng=np.random.default_rng(1), vectorized=False,
        **options,
    )  # fmt: skip
    return found.standard_error, found.confidence_interval.low, found.confidence_interval.high


def close(found, expected):
    error = expected[0]
    assert found.error == pytest.approx(error, rel=0.05)
    assert (found.low, found.high) == pytest.approx(expected[1:], abs=3 * MONTE_CARLO * error)


def test_a_mean_is_as_scipy_says():
    found = bootstrap(Scored({"loss": SCORES}), draws=DRAWS)["loss"]
    assert (found.value, found.units) == (pytest.approx(SCORES.mean()), 90)
    close(found, by_scipy(SCORES))
    assert found.error == pytest.approx(SCORES.std() / np.sqrt(90), rel=0.05)


def test_a_weighted_mean_is_as_scipy_says():
    weights = np.random.default_rng(7).integers(1, 9, size=90).astype(float)
    found = bootstrap(Scored({"loss": SCORES}, weights), draws=DRAWS)["loss"]
    assert found.value == pytest.approx(np.average(SCORES, weights=weights))
    close(found, by_scipy(SCORES, weights, statistic=lambda s, w: np.average(s, weights=w), paired=True))


def test_a_difference_is_paired_as_scipys():
    found = compare(Scored({"loss": SCORES}), Scored({"loss": OTHERS}), draws=DRAWS)["loss"]
    assert (found.before, found.after) == (pytest.approx(SCORES.mean()), pytest.approx(OTHERS.mean()))
    close(found, by_scipy(SCORES, OTHERS, statistic=lambda a, b: np.mean(b) - np.mean(a), paired=True))
    apart = [bootstrap(Scored({"loss": scores}))["loss"].error for scores in (SCORES, OTHERS)]
    assert found.error < 0.5 * min(apart)


def test_a_metric_of_the_whole_is_as_scipy_says():
    def median(examples):
        return {"median": np.median(SCORES[examples])}

    found = bootstrap(Scored({"loss": SCORES}, corpus=median), draws=DRAWS)["median"]
    assert found.value == np.median(SCORES)
    close(found, by_scipy(SCORES, statistic=np.median))


def test_a_mean_said_as_one_of_the_whole_is_the_same_to_rounding():
    points = [Scored({"loss": s}, corpus=lambda i, s=s: {"again": s[i].mean()}) for s in (SCORES, OTHERS)]
    for found in (bootstrap(points[0]), compare(*points)):
        one, other = found["loss"], found["again"]
        assert [one.value, one.error, one.low, one.high] == pytest.approx(
            [other.value, other.error, other.low, other.high], abs=1e-12
        )


@given(size=st.integers(2, 12), seed=st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_groups_are_drawn_whole(size, seed):
    """Copies of an example bring nothing: the interval is that of the examples, not of the copies."""
    few = np.random.default_rng(seed).normal(size=15)
    number = np.repeat(np.arange(15), size)
    clustered = bootstrap(Scored({"loss": np.repeat(few, size)}, groups=number), draws=500)["loss"]
    alone = bootstrap(Scored({"loss": few}), draws=500)["loss"]
    assert (clustered.error, clustered.low, clustered.high) == pytest.approx((alone.error, alone.low, alone.high))
    assert clustered.units == 15
    assert bootstrap(Scored({"loss": np.repeat(few, size)}), draws=500)["loss"].error < clustered.error


def test_groups_of_different_sizes_weigh_by_their_examples():
    groups = np.array([0, 0, 0, 1, 2, 2])
    scores = np.arange(6.0)
    draws = np.random.default_rng(0).integers(3, size=(20_000, 3))
    expected = [np.mean(np.concatenate([scores[groups == g] for g in row])) for row in draws]
    found = bootstrap(Scored({"loss": scores}, groups=groups), draws=20_000)["loss"]
    assert found.error == pytest.approx(np.std(expected), rel=0.03)
    whole = Scored({"loss": scores}, corpus=lambda i: {"again": scores[i].mean()}, groups=groups)
    assert bootstrap(whole)["again"].error == pytest.approx(bootstrap(whole)["loss"].error)


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(3)
    held = sum(
        found.low <= 0.7 <= found.high
        for found in (
            bootstrap(Scored({"accuracy": (rng.random(200) < 0.7).astype(float)}), draws=400)["accuracy"]
            for _ in range(200)
        )
    )
    assert abs(held / 200 - 0.95) < 0.05


@pytest.mark.parametrize(
    ("shift", "higher", "verdict"),
    [(1.0, False, "loss"), (1.0, True, "gain"), (-1.0, False, "gain"), (-1.0, True, "loss"), (0.0, True, "no gain")],
)
def test_a_gain_is_called_one_only_where_the_interval_says_so(shift, higher, verdict):
    noise = np.random.default_rng(2).normal(size=90)
    noise -= noise.mean()
    points = [Scored({"m": s}, higher=frozenset({"m"} if higher else ())) for s in (SCORES, SCORES + noise + shift)]
    assert compare(*points)["m"].verdict == verdict


def test_a_few_examples_make_no_gain():
    for count, verdict in ((2, "no gain"), (9, "no gain"), (10, "gain")):
        points = [Scored({"m": np.full(count, value)}, higher=frozenset({"m"})) for value in (0.0, 1.0)]
        assert compare(*points)["m"].verdict == verdict


def test_the_same_seed_gives_the_same_interval():
    scored = Scored({"loss": SCORES})
    assert bootstrap(scored) == bootstrap(scored) != bootstrap(scored, seed=1)


def test_scores_that_are_not_finite_have_no_interval():
    found = bootstrap(Scored({"loss": np.where(np.arange(90) == 4, np.nan, SCORES), "error": SCORES}))
    assert np.isnan([found["loss"].value, found["loss"].error, found["loss"].low]).all()
    assert np.isfinite(found["error"].error)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: bootstrap(Scored({"loss": SCORES[:1]})), "at least two examples, got 1"),
        (lambda: bootstrap(Scored({"loss": SCORES}, groups=np.zeros(90, int))), "at least two groups, got 1"),
        (lambda: bootstrap(Scored({"loss": SCORES, "error": SCORES[1:]})), "one score for each example"),
        (lambda: bootstrap(Scored({"loss": SCORES}, groups=np.arange(9))), "one score for each example"),
        (lambda: compare(Scored({"loss": SCORES}), Scored({"loss": SCORES[1:]})), "the same examples"),
        (lambda: compare(Scored({"loss": SCORES}), Scored({"error": SCORES})), "different metrics"),
        (lambda: compare(Scored({"m": SCORES}), Scored({"m": SCORES}, groups=np.arange(90))), "same groups"),
        (lambda: bootstrap(Scored({"loss": SCORES}), draws=1), "draws must be an integer of at least 2, got 1"),
    ],
)
def test_what_gives_no_interval_is_refused(run, message):
    with pytest.raises(ValueError, match=message):
        run()


# On problems.


@pytest.fixture(scope="module", params=["label", "text"])
def problem(request, small_model, label_task, text_task):
    task = label_task if request.param == "label" else text_task
    return lp.Problem(small_model("llama"), task, lp.subspaces.LoRAXS(2, layers=1), evaluator="serial")


def test_estimates_are_of_the_metrics(problem):
    x = np.full(problem.dimension, 0.5)
    for split in ("dev", "test"):
        metrics, found = problem.metrics(x, split), problem.estimate(x, split, draws=50)
        assert set(metrics) - set(found) <= {"examples", "tokens"}  # which are no metrics
        for name, estimate in found.items():
            assert estimate.value == pytest.approx(metrics[name], abs=1e-12)
            assert estimate.low <= estimate.value <= estimate.high
            assert estimate.units == problem.batch(split).examples


def test_a_comparison_is_of_the_losses_example_by_example(problem):
    x = np.full(problem.dimension, 0.5)
    batch = problem.batch("test")
    losses = [
        problem.spec.task.example_losses(found, batch)[0]
        for found in problem.evaluator.log_probs(np.stack([problem.x0, x]), batch)
    ]
    found = problem.compare(problem.x0, x, draws=DRAWS)["loss"]
    assert found.value == pytest.approx(np.mean(losses[1] - losses[0]))
    assert found.error == pytest.approx(np.std(losses[1] - losses[0]) / np.sqrt(batch.examples), rel=0.1)
    assert found.verdict in ("gain", "loss", "no gain")
    for change in problem.compare(x, x).values():
        assert (change.value, change.error, change.verdict) == (0, 0, "no gain")
    back = problem.compare(x, problem.x0, draws=DRAWS)["loss"]
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_examples_of_a_group_are_one_unit(small_model):
    rows = [
        {"text": f"{'abc'[i % 3]} line {i}", "label": "good" if i % 2 else "bad", "page": f"p{i // 4}", "split": split}
        for i in range(24)
        for split in ("search", "test")
    ]
    task = lp.tasks.Classification.from_records(
        rows,
        text="text",
        label="label",
        prompt="{text} is",
        labels={"bad": " b", "good": " g"},
        split="split",
        group="page",
        test_size=20,
    )
    problem = lp.Problem(small_model("llama"), task, lp.subspaces.LoRAXS(2, layers=1), evaluator="serial")
    pages = problem.batch("test").group.tolist()
    assert len(pages) == 20
    assert problem.estimate(problem.x0, "test", draws=50)["loss"].units == len(set(pages)) == 6
    some = problem.batch("test").take([7, 2])
    assert some.group.tolist() == [pages[7], pages[2]]


def test_a_point_that_does_not_fit_is_refused(problem):
    with pytest.raises(ValueError, match="finite"):
        problem.compare(problem.x0, problem.x0 * np.nan)
    with pytest.raises(ValueError, match=r"shape|dimension"):
        problem.estimate(problem.x0[1:])
    with pytest.raises(ValueError, match="split must be one of"):
        problem.estimate(problem.x0, "train")
