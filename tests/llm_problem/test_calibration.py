"""One unit of x moves every model's predictions by the same amount, and is measured once."""

import dataclasses
import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

import llm_problem as lp
from llm_problem import calibration
from llm_problem.calibration import Ruler, crossing, divergence, measure, typical_kl
from llm_problem.subspaces import SUBSPACES, BoundSubspace, LoRAXS, RandomSubspace, Together
from llm_problem.subspaces.scaled import ScaledSubspace
from llm_problem.suites.units import main as units_main
from llm_problem.suites.units import measured_units
from tests.llm_problem.subspace_examples import example

TASKS = ("label_task", "text_task")
CALIBRATED = [kind for kind in SUBSPACES if not kind.endswith("-mix")]
ROUNDED = 0.05  # largest relative error of two digits


@pytest.fixture(params=TASKS)
def task(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(params=CALIBRATED)
def kind(request):
    return request.param


def draws(dimension, pairs=8):
    """The fixed draws: x and −x."""
    streams = [np.random.SeedSequence([k, 0xCA11B]) for k in range(pairs)]
    X = np.stack([np.random.Generator(np.random.PCG64(stream)).standard_normal(dimension) for stream in streams])
    return np.concatenate([X, -X])


def stock_log_probs(problem, x, batch):
    """log p (tokens, V) of each sequence of a batch, by the stock model with the weights of x."""
    with torch.no_grad(), problem.evaluator.changed(x[None]):
        logits = [problem.model(input_ids=torch.as_tensor(ids)[None]).logits[0] for ids in batch.sequences]
    return [torch.log_softmax(row.double(), dim=-1).numpy() for row in logits]


def stock_predictions(problem, x, batch):
    """p over the vocabulary at every place that a batch reads."""
    rows = stock_log_probs(problem, x, batch)
    places = dict.fromkeys(zip(batch.sequence.tolist(), batch.position.tolist(), strict=True))
    return [np.exp(rows[sequence][position]) for sequence, position in places]


def stock_kl(problem, X):
    """The median of the divergences of candidates X (n, d), in nats, by scipy."""
    batch = Ruler(problem.evaluator, problem.batch("search")).batch
    before = stock_predictions(problem, problem.x0, batch)
    return np.median(
        [np.mean([entropy(p, q) for p, q in zip(before, stock_predictions(problem, x, batch), strict=True)]) for x in X]
    )


def test_a_unit_moves_the_stock_models_predictions_by_the_amount(kind, task, small_model):
    loaded = small_model("gpt2")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        problem = lp.Problem(loaded, task, example(kind, loaded))
    found, card = stock_kl(problem, draws(problem.dimension)), problem.card()
    if any("longest sensible" in str(warning.message) for warning in seen):
        assert (kind, task.kind) == ("soft-prompt", "classification")  # the attention of few words saturates
        assert task.amount / 4 < found < task.amount
    else:
        assert found == pytest.approx(task.amount, rel=2.2 * ROUNDED)
    assert card["kl_measured"] == pytest.approx(found, rel=1e-3)
    assert card["kl_target"] == task.amount
    assert card["units"] == list(problem.spec.units)


def test_other_draws_are_moved_about_as_far(task, small_model):
    problem = lp.Problem(small_model("llama"), task, LoRAXS(3, layers=2))
    kl = typical_kl(problem.evaluator, problem.batch("search"))
    assert kl / 2 < stock_kl(problem, np.random.default_rng(5).standard_normal((32, problem.dimension))) < 2 * kl


@pytest.mark.parametrize("kind", ["adapter-mix", "model-mix"])
def test_a_unit_of_a_mix_is_what_is_mixed(kind, text_task, small_model):
    loaded = small_model("gpt2")
    problem = lp.Problem(loaded, text_task, example(kind, loaded))
    assert problem.spec.units == (1.0,)
    assert problem.card()["kl_target"] is None


def test_a_part_with_a_scale_of_its_own_keeps_it(text_task, small_model):
    loaded = small_model("llama")
    free, given = LoRAXS(2, layers=[1]), RandomSubspace(5, layers=[2], modules=("up_proj",), scale=0.01)
    problem = lp.Problem(loaded, text_task, Together((free, given)))
    assert problem.spec.units[1] == 1.0
    X = draws(problem.dimension)
    X[:, -5:] = 0
    assert stock_kl(problem, X) == pytest.approx(text_task.amount / 2, rel=2.2 * ROUNDED)
    assert problem.card()["kl_target"] is None


@pytest.mark.parametrize("times", [100.0, 0.01])
@pytest.mark.parametrize("kind", ["full", "lora-xs", "norms-and-biases", "soft-prompt", "together"])
def test_the_raw_length_of_a_step_does_not_count(times, kind, text_task, small_model):
    loaded = small_model("gpt2", dtype=torch.float64)
    subspace = example(kind, loaded)
    problem = lp.Problem(loaded, text_task, subspace)
    units = problem.spec.units
    scaled = ScaledSubspace(subspace.bind(loaded, 0), [times] * len(units))
    other = measure(loaded, scaled, problem.batch("search"), text_task.amount, [False] * len(units))
    np.testing.assert_allclose(times * np.array(other), units, rtol=2 * ROUNDED + 0.01)


class SideBySide(BoundSubspace):
    """Two subspaces, one after another, as a composition has them."""

    def __init__(self, parts):
        self.parts, self.blocks = parts, tuple(part.dimension for part in parts)
        self.dimension = sum(self.blocks)
        self.parameters = tuple(name for part in parts for name in part.parameters)

    def deltas(self, X):
        parts = X.split(self.blocks, dim=1)
        return [delta for part, x in zip(self.parts, parts, strict=True) for delta in part.deltas(x)]

    def basis(self):
        for part in self.parts:
            yield from part.basis()


def side_by_side(loaded, times):
    first = LoRAXS(2, layers=[1]).bind(loaded, 0)
    second = RandomSubspace(5, layers=[2], modules=("up_proj",)).bind(loaded, 0)
    return SideBySide([first, ScaledSubspace(second, (times,))])


def test_parts_of_x_alone_move_predictions_alike_and_together_by_the_amount(text_task, small_model):
    loaded = small_model("llama", dtype=torch.float64)
    bound, search = side_by_side(loaded, 50.0), text_task.batch(loaded, "search", 0)
    units = measure(loaded, bound, search, text_task.amount, [False, False])
    evaluator, _ = calibration.choose_evaluator(loaded, ScaledSubspace(bound, units), search, "serial")
    ruler = Ruler(evaluator, search)
    first, second, both = (ruler.kl(np.array(steps), bound.blocks) for steps in ([1.0, 0.0], [0.0, 1.0], [1.0, 1.0]))
    assert both == pytest.approx(text_task.amount, rel=2.2 * ROUNDED)
    assert first == pytest.approx(second, rel=4 * ROUNDED)
    plain = measure(loaded, side_by_side(loaded, 1.0), search, text_task.amount, [False, False])
    np.testing.assert_allclose(np.array(units) * [1, 50], plain, rtol=2 * ROUNDED + 0.01)


def test_x_is_the_raw_x_times_the_unit(task, small_pair, points):
    pair = small_pair("llama")
    problem, raw = lp.Problem(pair, task, LoRAXS(2, layers=2)), lp.Problem(pair, task, LoRAXS(2, layers=2))
    (unit,) = problem.spec.units
    X = points(3, problem.dimension)
    raw_bound = LoRAXS(2, layers=2).bind(raw._loaded, 0)
    evaluator = type(raw.evaluator)(raw._loaded, raw_bound, raw.batch("search"))
    expected = [
        task.scores(values, raw.batch("search"))["loss"]
        for values in evaluator.log_probs(unit * X, raw.batch("search"))
    ]
    np.testing.assert_array_equal(problem.evaluate(X), expected)


def test_a_scale_that_is_given_is_kept(small_pair, label_task):
    problem = lp.Problem(small_pair("llama"), label_task, LoRAXS(2, layers=1, scale=0.25))
    x = torch.ones(1, problem.dimension, dtype=torch.float64)
    (delta, _), (own, _) = (
        problem.subspace.deltas(x),
        LoRAXS(2, layers=1, scale=0.25).bind(problem._loaded, 0).deltas(x),
    )
    assert problem.spec.units == (1.0,)
    assert torch.equal(delta.factors(0)[0], own.factors(0)[0])
    assert problem.card()["kl_target"] is None
    assert problem.card()["kl_measured"] > 0


def test_units_are_measured_once(text_task, tiny_gpt2, monkeypatch):
    problem = lp.Problem("tiny-gpt2", text_task, LoRAXS(2, layers=1), minibatch=2)
    monkeypatch.setattr(calibration, "measure", lambda *args: pytest.fail("measured again"))
    twins = [
        pickle.loads(pickle.dumps(problem)),
        lp.Problem.from_spec(problem.spec),
        lp.Problem.from_spec(lp.ProblemSpec.from_json(problem.spec.to_json())),
        lp.Problem.from_spec(dataclasses.replace(problem.spec, minibatch=1)),
        problem.to_pymoo(objectives=("loss",)).problem,
        lp.make("tiny-gpt2-prose-lora-xs-d32-v1"),
    ]
    assert all(twin.spec.units == problem.spec.units for twin in twins[:-1])
    assert twins[0].fingerprint == problem.fingerprint == twins[1].fingerprint
    assert problem(np.ones(problem.dimension)) == twins[0](np.ones(problem.dimension))


def test_measuring_again_gives_the_same(task, small_pair):
    first, again = (lp.Problem(small_pair("bert"), task, RandomSubspace(5, layers=2)).spec for _ in range(2))
    assert first.units == again.units
    assert first.fingerprint("m") == again.fingerprint("m") != dataclasses.replace(first, units=None).fingerprint("m")


@pytest.mark.parametrize("options", [{"evaluator": "serial"}, {"dtype": "bfloat16"}, {"objective": "error"}])
def test_units_do_not_depend_on_how_losses_are_computed(options, small_pair, label_task):
    pair = small_pair("llama")
    assert lp.Problem(pair, label_task, LoRAXS(2, layers=1), **options).spec.units == (
        lp.Problem(pair, label_task, LoRAXS(2, layers=1)).spec.units
    )


def test_units_have_two_digits(small_pair, task):
    (unit,) = lp.Problem(small_pair("qwen2"), task, LoRAXS(2, layers=2)).spec.units
    assert unit == float(f"{unit:.1e}")


@pytest.mark.parametrize("units", [(1.0, 2.0), (0.5, 0.5, 0.5)])
def test_units_must_be_as_many_as_the_parts_of_x(units, text_task, tiny_gpt2):
    spec = lp.ProblemSpec("tiny-gpt2", text_task, LoRAXS(2, layers=1), units=units)
    with pytest.raises(ValueError, match="units must be one factor for each of the 1 blocks of x"):
        lp.Problem.from_spec(spec)


def test_what_cannot_move_predictions_so_far_says_so_and_gets_the_longest_sensible_unit(
    small_model, text_task, monkeypatch
):
    monkeypatch.setattr(type(text_task), "amount", 50.0)
    with pytest.warns(UserWarning, match=r"no step of x moves .* by 50 nats.* longest sensible one") as seen:
        problem = lp.Problem(small_model("bert"), text_task, LoRAXS(2, layers=1))
    assert seen[0].filename == __file__
    here, most = (typical_kl(problem.evaluator, problem.batch("search"), step) for step in (1.0, 1000.0))
    assert here < 50
    assert here == pytest.approx(calibration.SATURATED * most, rel=0.3)


def test_what_moves_nothing_says_so_and_keeps_its_unit(small_pair):
    rows = [{"text": text, "label": label} for text, label in ("ax", "by", "cx", "dy")]
    single = lp.tasks.Classification.from_records(
        rows, text="text", label="label", prompt="{text}", labels={"x": "x", "y": "y"}, dev=rows, test=rows
    )
    with pytest.warns(UserWarning, match="hardly move at all, and it is not calibrated"):  # one token attends to itself
        problem = lp.Problem(small_pair("llama"), single, LoRAXS(2, layers=1, modules="q_proj"))
    assert problem.spec.units == (1.0,)


def test_a_model_without_finite_predictions_is_not_calibrated(small_pair, text_task):
    model, tokenizer = small_pair("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = np.nan
    with pytest.warns(UserWarning, match="not finite: x is not calibrated"):
        assert lp.Problem((model, tokenizer), text_task, LoRAXS(2, layers=1)).spec.units == (1.0,)


def test_places_are_spread_over_positions_and_windows(small_model):
    loaded = small_model("gpt2")
    text = "the first of many plain words that stand in a row so that there is something to read here " * 12
    task = lp.tasks.LanguageModelling.from_string(text, window=17)
    problem = lp.Problem(loaded, task, LoRAXS(2, layers=1))
    batch = Ruler(problem.evaluator, problem.batch("search").take(range(16))).batch
    assert len(set(batch.position.tolist())) > 5
    assert len(batch.sequences) > 8
    assert batch.examples == 16


@pytest.mark.parametrize(("count", "total"), [(1, 1), (5, 5), (30, 38), (16, 10_000), (1, 7)])
def test_spread_numbers_are_distinct_and_everywhere(count, total):
    found = calibration._spread(count, total)
    assert np.all(np.diff(found) > 0)
    assert np.all(np.abs(found - (np.arange(count) + 0.5) * total / count) <= total / count + 1)


def test_little_of_a_large_search_split_is_read(small_model):
    task = lp.tasks.LanguageModelling.from_string(
        "a long text that goes on for a while and then some. " * 400, window=60
    )
    search = task.batch(small_model("gpt2"), "search", 0)
    assert search.tokens > 4 * calibration.TOKENS
    assert 0 < calibration._some_examples(search).tokens <= calibration.TOKENS


steps = st.floats(-9, 9).map(math.exp)


@settings(max_examples=60)
@given(a=steps, power=st.floats(1.2, 3), target=st.floats(0.01, 1), breaks=st.floats(1.5, 100))
def test_crossing_finds_the_step_of_a_power_law_that_breaks_beyond(a, power, target, breaks):
    solution = (target / a) ** (1 / power)
    calls = []

    def kl(step):
        calls.append(step)
        return a * step**power if step < breaks * solution else math.inf

    found, most = crossing(kl, target)
    assert found == pytest.approx(solution, rel=0.01)
    assert target * 0.98 < most < math.inf
    assert len(calls) <= calibration.MOST_TRIALS


@settings(max_examples=60)
@given(a=steps, target=st.floats(0.01, 1), height=st.floats(0.05, 20))
def test_crossing_of_a_curve_that_saturates(a, target, height):
    top = height * target
    found, most = crossing(lambda step: top * -math.expm1(-a * step * step), target)
    if height > 1.05:
        assert top * -math.expm1(-a * found * found) == pytest.approx(target, rel=0.011)
    elif height < 0.95:
        assert found is None
        assert 0.85 * top < most <= top


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_crossing_of_what_is_never_between(value):
    assert crossing(lambda step: value, 0.1) == (None, 0.0)


def test_crossing_stops_below_a_jump():
    found, _ = crossing(lambda step: 0.001 * step**2 if step < 7 else 3.0, 0.1)
    assert found == pytest.approx(7, rel=0.01)
    assert found < 7


@settings(max_examples=30)
@given(seed=st.integers(0, 999), outcomes=st.integers(2, 9), places=st.integers(1, 4))
def test_divergence_is_the_kullback_leibler_divergence(seed, outcomes, places):
    p, q = np.random.default_rng(seed).dirichlet(np.ones(outcomes), (2, places))
    assert divergence(np.log(p), np.log(q)) == pytest.approx(
        np.mean([entropy(*pair) for pair in zip(p, q, strict=True)])
    )


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([0.0, -np.inf], [0.0, -np.inf], 0.0),
        ([0.0, -np.inf], [np.log(0.5), np.log(0.5)], np.log(2)),
        ([np.log(0.5), np.log(0.5)], [0.0, -np.inf], np.inf),
        ([np.log(0.5), np.log(0.5)], [np.nan, np.nan], np.inf),
    ],
)
def test_divergence_of_what_is_impossible_or_broken(before, after, expected):
    assert divergence(np.array([before]), np.array([after])) == pytest.approx(expected)


@pytest.mark.parametrize(
    "id", ["tiny-gpt2-prose-lora-xs-d32-v1", "tiny-gpt2-sentiment-lora-xs-d128-v1", "tiny-bert-prose-random-d32-v1"]
)
def test_named_units_are_what_is_measured_here(id):
    np.testing.assert_allclose(measured_units(id), lp.get_spec(id).units, rtol=2 * ROUNDED + 0.01)


def test_named_units_of_smollm2_are_what_is_measured_here(smollm2):
    id = "smollm2-135m-sentiment-lora-xs-d32-v1"
    np.testing.assert_allclose(measured_units(id), lp.get_spec(id).units, rtol=2 * ROUNDED + 0.01)


@pytest.mark.parametrize("id", lp.list_problems())
def test_every_named_problem_names_its_units(id):
    assert lp.get_spec(id).units is not None
    assert lp.get_spec(id, instance=1).units == lp.get_spec(id).units


def test_the_command_prints_what_it_measured(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert units_main(["tiny-bert-prose-lora-xs-*"]) == 0
    assert capsys.readouterr().out.startswith("tiny-bert-prose-lora-xs-d32-v1: (1.")
