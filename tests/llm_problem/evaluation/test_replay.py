"""Replaying gives the serial evaluator's values on every family it claims, and refuses what it would get wrong."""

from threading import Barrier, Thread

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import NotReplayableError, ReplayEvaluator, SerialEvaluator, replay
from llm_problem.evaluation.layer import Layer
from llm_problem.models import load_model
from llm_problem.models.families import FAMILIES
from llm_problem.tasks.batch import BatchBuilder
from tests.llm_problem.covering import covering
from tests.llm_problem.subspace_examples import EXAMPLES, example

CLOSE = 2e-6  # nats, between losses
SINGLE = 1e-5  # nats, between log-probabilities in single precision
VARIANTS = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    ("gpt2", {"tie_word_embeddings": False}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}),
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    ("bert", {"tie_word_embeddings": False}),
    ("bert", {"is_decoder": True}),
]
SUBSPACES = {
    "last layer": lp.subspaces.LoRAXS(2, layers=1),
    "last two": lp.subspaces.LoRAXS(2, layers=2, modules=("q_proj", "v_proj", "o_proj", "down_proj")),
    "all layers": lp.subspaces.LoRAXS(2),
    "first layer": lp.subspaces.RandomSubspace(5, layers=[0]),
    "outside the layers": lp.subspaces.FullVector(),
    "a factor, last layer": lp.subspaces.LoRA(2, layers=1),
    "factors, last two": lp.subspaces.LoRA(3, layers=2, modules=("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")),
    "factors by row": lp.subspaces.VeRA(4, layers=2, searched="b"),
    "diagonal cores, last layer": lp.subspaces.VeRA(3, layers=1),
    "diagonal cores of full rank": lp.subspaces.SingularValues(layers=2, modules=("q_proj", "v_proj", "up_proj")),
    "one vector for all": lp.subspaces.TinyLoRA(6, rank=2, layers=2, modules=("v_proj", "o_proj", "up_proj")),
    "groups of entries": lp.subspaces.SparseProjection(40, layers=2, modules=("k_proj", "o_proj", "up_proj")),
    "structured": lp.subspaces.Fastfood(40, layers=1),
    "scales": lp.subspaces.Scales(layers=2),
    "scales of the last layer": lp.subspaces.Scales(layers=1, modules=("q_proj", "v_proj", "o_proj", "down_proj")),
    "scales after attention": lp.subspaces.Scales(layers=2, modules=("up_proj", "down_proj")),
    "norms and biases": lp.subspaces.NormsAndBiases(layers=2, scale=0.3),
    "norms of the last layer": lp.subspaces.NormsAndBiases(layers=1, biases=False, scale=0.3),
}


def mixed_batch():
    """Sequences of several lengths, two of a single token; some places are read twice, some not at all."""
    rng = np.random.default_rng(3)
    builder = BatchBuilder()
    for number, length in enumerate((5, 1, 17, 2, 1, 40, 8)):
        builder.start_example(number % 2)
        sequence = builder.add_sequence(rng.integers(5, 261, length))
        for position in {0, length // 2, length - 1}:
            for answer in (0, 1):
                builder.read(sequence, position, int(rng.integers(5, 261)), answer)
    return builder.build()


def both(loaded, subspace, seed=0):
    bound = subspace.bind(loaded, seed)
    return ReplayEvaluator(loaded, bound, mixed_batch()), SerialEvaluator(loaded, bound)


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("moved", SUBSPACES)
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=lambda value: value if isinstance(value, str) else None)
def test_replay_equals_serial(family, changes, moved, small_model, points):
    # In double precision, where little but a mistake can make a difference (root mean square norms stay in single).
    loaded = small_model(family, dtype=torch.float64, **changes)
    replaying, serial = both(loaded, SUBSPACES[moved])
    X, batch = points(3, serial.subspace.dimension), mixed_batch()
    expected, found = serial.log_probs(X, batch), replaying.log_probs(X, batch)
    assert np.abs(expected[1:] - expected[0]).max() > 0.01  # x moves something
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(replaying.log_probs(X, batch), found)  # now from memory


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize(("family", "moved"), covering(FAMILIES, SUBSPACES, each=3))
def test_replayed_losses_equal_serial_ones_in_single_precision(family, moved, small_model, text_task, points):
    loaded = small_model(family)
    problems = [lp.Problem(loaded, text_task, SUBSPACES[moved], evaluator=e) for e in ("replay", "serial")]
    X = points(3, problems[0].dimension)
    np.testing.assert_allclose(problems[0].evaluate(X), problems[1].evaluate(X), rtol=0, atol=CLOSE)


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (family, kind)
        for family, kind in covering(FAMILIES, EXAMPLES, each=3)
        if kind != "prefix" or family not in ("bert", "roberta")
    ],
)
def test_every_registered_subspace_is_replayed(family, kind, small_model, label_task, points):
    loaded = small_model(family)
    problems = [lp.Problem(loaded, label_task, example(kind, loaded), evaluator=e) for e in ("replay", "serial")]
    X = 0.5 * points(3, problems[0].dimension)  # farther, single precision rounds more
    expected = problems[1].evaluate(X)
    assert np.abs(expected[1:] - expected[0]).max() > 1e-4  # x moves something
    np.testing.assert_allclose(problems[0].evaluate(X), expected, rtol=0, atol=CLOSE)


def test_sequences_in_one_row_do_not_see_each_other(small_model, points):
    loaded = small_model("llama")
    replaying, _ = both(loaded, SUBSPACES["last two"])
    X, batch = points(2, replaying.subspace.dimension), mixed_batch()
    alone = np.concatenate([replaying.log_probs(X, batch.take([k])) for k in range(batch.examples)], axis=1)
    np.testing.assert_allclose(replaying.log_probs(X, batch), alone, rtol=0, atol=SINGLE)


@pytest.mark.parametrize("limit", [1, 7, 20, 45])
def test_long_rows_are_cut_with_the_same_values(limit, small_model, points, monkeypatch):
    loaded = small_model("gpt2")
    replaying, serial = both(loaded, SUBSPACES["last layer"])
    X, batch = points(2, serial.subspace.dimension), mixed_batch()
    monkeypatch.setattr(replay, "TOKENS_PER_ROW", limit)
    np.testing.assert_allclose(replaying.log_probs(X, batch), serial.log_probs(X, batch), rtol=0, atol=SINGLE)
    lengths = [row.tokens for row in replaying._packed(batch).rows]
    assert len(lengths) > 1
    assert sum(lengths) <= batch.tokens
    assert max(lengths) <= max(limit, max(s.size for s in batch.sequences))


def test_layers_below_the_first_moved_one_run_once(small_model, points):
    loaded = small_model("llama")
    replaying, _ = both(loaded, SUBSPACES["last layer"])
    calls = [0, 0, 0]

    def count(number):
        def hook(module, args, output):
            calls[number] += 1

        return hook

    handles = [
        layer.self_attn.register_forward_hook(count(number)) for number, layer in enumerate(loaded.model.model.layers)
    ]
    replaying.log_probs(points(4, replaying.subspace.dimension), mixed_batch())
    for handle in handles:
        handle.remove()
    assert calls == [1, 1, 0]  # the moved one runs piece by piece


def fail_with(seen, model):
    def fail(self, *args, **kwargs):
        seen.append(model.config._attn_implementation)
        raise MemoryError("no more memory")

    return fail


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("moved", ["last layer", "outside the layers"])
@pytest.mark.parametrize(
    ("broken", "filled"),
    [("layer", False), ("layer", True), ("piece", False), ("piece", True)],
    ids=lambda value: value if isinstance(value, str) else ("later" if value else "first"),
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_an_evaluation_that_raises_leaves_everything_as_it_was(
    family, broken, filled, moved, small_model, model_state, points, monkeypatch
):
    loaded = small_model(family)
    replaying, serial = both(loaded, SUBSPACES[moved])
    X, batch, before = points(2, serial.subspace.dimension), mixed_batch(), model_state(loaded.model)
    X[1] *= 0.1
    expected = serial.log_probs(X, batch)
    if filled:
        replaying.log_probs(X, batch)
    stock_layer, seen = loaded.model.get_submodule(FAMILIES[family].layers)[0], []
    runs = (broken == "layer" and (moved != "last layer" or not filled)) or (
        broken == "piece" and moved == "last layer"
    )
    with monkeypatch.context() as patch:
        name = "forward" if broken == "layer" else "_mlp"
        patch.setattr(type(stock_layer) if broken == "layer" else Layer, name, fail_with(seen, loaded.model))
        if runs:
            with pytest.raises(MemoryError):
                replaying.log_probs(X[1:], batch)
        else:  # kept layers do not run again, and whole stock layers have no pieces
            np.testing.assert_allclose(replaying.log_probs(X[1:], batch), expected[1:], rtol=0, atol=SINGLE)
    assert bool(seen) == runs
    assert model_state(loaded.model) == before
    np.testing.assert_allclose(replaying.log_probs(X, batch), expected, rtol=0, atol=SINGLE)
    assert model_state(loaded.model) == before


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluating_leaves_the_model_bit_identical(family, small_model, model_state, points):
    loaded = small_model(family)
    replaying, _ = both(loaded, SUBSPACES["last two"])
    before = model_state(loaded.model)
    X = points(3, replaying.subspace.dimension)
    X[2] *= 1e30
    replaying.log_probs(X, mixed_batch())
    assert model_state(loaded.model) == before


@pytest.mark.parametrize("moved", SUBSPACES)
def test_a_value_does_not_depend_on_its_population(moved, small_model, points):
    loaded = small_model("llama")
    replaying, _ = both(loaded, SUBSPACES[moved])
    X, batch = points(16, replaying.subspace.dimension), mixed_batch()
    alone = np.concatenate([replaying.log_probs(x[None], batch) for x in X])
    for n in (7, 16):
        fresh, _ = both(loaded, SUBSPACES[moved])  # whose memory another candidate fills
        np.testing.assert_array_equal(fresh.log_probs(X[-n:], batch), alone[-n:])


def test_problems_that_share_a_model_do_not_mix(small_model, text_task, label_task, points):
    loaded = small_model("qwen2")
    makers = [
        lambda: lp.Problem(loaded, text_task, SUBSPACES["last layer"]),
        lambda: lp.Problem(loaded, label_task, SUBSPACES["last two"]),
        lambda: lp.Problem(loaded, text_task, SUBSPACES["all layers"], evaluator="serial"),
    ]
    X = [points(4, make().dimension, seed=k) for k, make in enumerate(makers)]
    expected = [make().evaluate(x) for make, x in zip(makers, X, strict=True)]
    problems = [make() for make in makers]
    interleaved = [[problem(x[i]) for problem, x in zip(problems, X, strict=True)] for i in range(4)]
    np.testing.assert_array_equal(np.transpose(interleaved), expected)
    assert problems[0].model is problems[1].model is problems[2].model


def test_problems_that_share_a_model_work_from_several_threads(small_model, text_task, label_task, points):
    loaded = small_model("llama")
    problems = [
        lp.Problem(loaded, text_task, SUBSPACES["last layer"]),
        lp.Problem(loaded, label_task, SUBSPACES["last two"]),
    ]
    X = [points(12, problem.dimension) for problem in problems]
    expected = [problem.evaluate(x) for problem, x in zip(problems, X, strict=True)]
    found, start = [[], []], Barrier(2)

    def work(k):
        start.wait()
        found[k] += [problems[k](x) for x in X[k]]

    threads = [Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(found, expected)


def test_weights_changed_from_outside_are_not_answered_from_memory(small_model, points):
    loaded = small_model("llama")
    replaying, serial = both(loaded, SUBSPACES["last layer"])
    X, batch = points(2, serial.subspace.dimension), mixed_batch()
    before = replaying.log_probs(X, batch)
    with torch.no_grad():
        loaded.model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    expected = serial.log_probs(X, batch)
    assert np.abs(expected - before).max() > 0.01
    np.testing.assert_allclose(replaying.log_probs(X, batch), expected, rtol=0, atol=SINGLE)


@pytest.mark.parametrize(
    ("family", "moved"), covering(["llama", "gpt2", "gpt_neox", "opt", "bert", "qwen3"], SUBSPACES, each=3)
)
def test_gradients_are_the_serial_evaluators(family, moved, small_model, label_task, check_gradients):
    check_gradients(small_model(family), label_task, SUBSPACES[moved])


@pytest.mark.parametrize("moved", ["last two", "outside the layers"])
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=lambda value: value if isinstance(value, str) else None)
def test_gradients_of_words_that_compete_leave_out_only_what_nobody_reads(
    family, changes, moved, small_pair, word_task
):
    pair = small_pair(family, **changes)
    x = None
    for evaluator in ("replay", "serial"):
        problem = lp.Problem(pair, word_task, SUBSPACES[moved], evaluator=evaluator)
        assert problem.batch("search").contrast == (
            problem._loaded.kind == "causal"
        )  # a masked model reads one a sequence
        if x is None:
            x = np.random.default_rng(0).standard_normal(problem.dimension)
            loss, gradient = problem.value_and_grad(x)
    expected, reference = problem.value_and_grad(x)
    assert loss == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(gradient, reference, rtol=1e-3, atol=1e-5 * np.abs(reference).max())


def dynamic_rope(kind):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    return {"rope_parameters": rope, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 8}, "sliding window"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding window"),
        ("bloom", {}, "'bloom'"),
        ("llama", dynamic_rope("dynamic"), "rotary"),
        ("llama", dynamic_rope("longrope"), "rotary"),
    ],
)
def test_models_that_packing_gets_wrong_are_refused(family, changes, reason, small_model, label_task):
    modules = ("query_key_value",) if family == "bloom" else ("q_proj", "v_proj")
    subspace, loaded = lp.subspaces.LoRAXS(2, layers=1, modules=modules), small_model(family, **changes)
    with pytest.raises(NotReplayableError, match=reason):
        ReplayEvaluator(loaded, subspace.bind(loaded, 0), mixed_batch())
    problem = lp.Problem(loaded, label_task, subspace)
    assert problem.card()["evaluator"].startswith("serial (not replayable: ")
    assert reason in problem.card()["evaluator"]
    assert np.isfinite(problem(problem.x0))
    with pytest.raises(ValueError, match=reason):
        lp.Problem(loaded, label_task, subspace, evaluator="replay")


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("moved", ["last two", "factors, last two", "diagonal cores, last layer"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_of_a_pair_are_replayed(dtype, moved, small_pair, points):
    loaded = load_model(small_pair("llama", dtype=dtype))
    replaying, serial = both(loaded, SUBSPACES[moved])
    X, batch = points(2, serial.subspace.dimension), mixed_batch()
    found, expected = replaying.log_probs(X, batch), serial.log_probs(X, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if dtype == torch.float64 else 0.1)


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_bert"])
def test_replay_equals_serial_on_the_bundled_models(name, request, text_task, points):
    loaded = request.getfixturevalue(name)
    problems = [lp.Problem(loaded, text_task, SUBSPACES["last layer"], evaluator=e) for e in ("replay", "serial")]
    X = points(3, problems[0].dimension)
    np.testing.assert_allclose(problems[0].evaluate(X), problems[1].evaluate(X), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("moved", ["last two", "factors, last two", "diagonal cores of full rank"])
def test_replay_equals_serial_on_smollm2(moved, smollm2, points):
    task = lp.tasks.Classification.from_records(
        [{"text": "an odd little film", "label": "1"}, {"text": "two hours of nothing at all", "label": "0"}],
        text="text",
        label="label",
        prompt="{text} It was",
        labels={"0": " terrible", "1": " great"},
        split=None,
        dev=[{"text": "a", "label": "1"}, {"text": "b", "label": "0"}],
        test=[{"text": "a", "label": "1"}, {"text": "b", "label": "0"}],
    )
    problems = [lp.Problem(smollm2, task, SUBSPACES[moved], evaluator=e) for e in ("replay", "serial")]
    X = points(3, problems[0].dimension)
    # Single precision itself is worth about 1e-5 nats in this model's log-probabilities.
    np.testing.assert_allclose(problems[0].evaluate(X), problems[1].evaluate(X), rtol=0, atol=2e-5)
