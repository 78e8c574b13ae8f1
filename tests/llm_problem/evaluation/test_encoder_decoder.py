"""Encoder-decoder models: the serial evaluator equals stock code, and the fast one equals the serial one."""

import copy

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import EncoderDecoderEvaluator, SerialEvaluator, encoder_decoder
from llm_problem.models.families import ENCODER_DECODERS
from llm_problem.tasks.batch import BatchBuilder

CLOSE = 2e-6  # nats, between losses
SINGLE = 1e-5  # nats, between log-probabilities in single precision
GATED_T5 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # T5 1.1: its head is not scaled
VARIANTS = [
    *((family, {}) for family in ENCODER_DECODERS),
    ("t5", GATED_T5),
    ("marian", {"share_encoder_decoder_embeddings": False}),
    ("marian", {"activation_function": "swish", "scale_embedding": False}),
]
CROSS = ("cross_q_proj", "cross_k_proj", "cross_v_proj", "cross_o_proj", "up_proj", "down_proj")
SUBSPACES = {
    "last layer": lp.subspaces.LoRAXS(2, layers=1),
    "cross attention": lp.subspaces.LoRAXS(2, layers=2, modules=CROSS),
    "one of the cross projections": lp.subspaces.LoRAXS(2, layers=[1], modules="cross_k_proj"),
    "first layer": lp.subspaces.RandomSubspace(5, layers=[0]),
    "encoder": lp.subspaces.LoRAXS(2, layers=1, modules=("encoder.q_proj", "encoder.down_proj")),
    "factors": lp.subspaces.LoRA(2, layers=1, modules=("q_proj", "cross_v_proj", "down_proj")),
    "diagonal cores": lp.subspaces.SingularValues(3, layers=2, modules=("encoder.v_proj", "v_proj")),
    "all": lp.subspaces.FullVector(),
    "scales": lp.subspaces.Scales(layers=1, modules=("k_proj", "cross_v_proj", "down_proj", "encoder.down_proj")),
    "norms and biases": lp.subspaces.NormsAndBiases(layers=2, scale=0.3),
}


def mixed_batch():
    """Targets and sources of several lengths, sources read once and twice, one target that nobody reads."""
    rng = np.random.default_rng(3)
    builder = BatchBuilder()
    sources = [builder.add_source([*rng.integers(5, 261, length), 2]) for length in (6, 1, 30, 12, 2)]
    for number, (source, length) in enumerate([(0, 5), (1, 1), (2, 17), (0, 2), (3, 1), (4, 40), (2, 8)]):
        builder.start_example(number % 2)
        sequence = builder.add_sequence([1, *rng.integers(5, 261, length - 1)], sources[source])
        for position in {0, length // 2, length - 1}:
            for answer in (0, 1):
                builder.read(sequence, position, int(rng.integers(5, 261)), answer)
    builder.add_sequence([1, 7], sources[4])
    return builder.build()


def both(loaded, subspace, seed=0):
    bound = subspace.bind(loaded, seed)
    return EncoderDecoderEvaluator(loaded, bound), SerialEvaluator(loaded, bound)


def ids_of(value):
    return value if isinstance(value, str) else None


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_serial_values_are_those_of_stock_code(family, small_model):
    loaded, subspace = small_model(family), SUBSPACES["all"]
    serial, batch = both(loaded, subspace)[1], mixed_batch()
    x = np.random.default_rng(1).standard_normal(serial.subspace.dimension)
    model, step, start = copy.deepcopy(loaded.model), serial.subspace.scale, 0
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:  # Marian's are computed
            parameter += torch.from_numpy(step * x[start : start + parameter.numel()]).float().view_as(parameter)
            start += parameter.numel()
    assert start == x.size
    found = serial.log_probs(x[None], batch)[0]
    for entry in range(batch.entries):
        sequence = batch.sequence[entry]
        source = torch.from_numpy(batch.sources[batch.source[sequence]])[None]
        read = torch.from_numpy(batch.sequences[sequence][: batch.position[entry] + 1])[None]
        logits = model(input_ids=source, decoder_input_ids=read).logits[0, -1].double()
        assert abs(found[entry] - float(logits.log_softmax(-1)[batch.token[entry]])) < SINGLE


@pytest.mark.parametrize("moved", SUBSPACES)
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=ids_of)
def test_fast_equals_serial(family, changes, moved, small_model, points):
    # In double precision, where nothing but a mistake can make a difference.
    loaded = small_model(family, dtype=torch.float64, **changes)
    fast, serial = both(loaded, SUBSPACES[moved])
    X, batch = points(3, serial.subspace.dimension), mixed_batch()
    expected, found = serial.log_probs(X, batch), fast.log_probs(X, batch)
    assert np.abs(expected[1:] - expected[0]).max() > 0.01  # x moves something
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(fast.log_probs(X, batch), found)  # now from memory


@pytest.mark.parametrize("moved", SUBSPACES)
@pytest.mark.parametrize("family", ["t5", "marian"])
def test_losses_and_values_equal_serial_ones_in_single_precision(family, moved, small_model, label_task, points):
    loaded = small_model(family)
    problems = [lp.Problem(loaded, label_task, SUBSPACES[moved], evaluator=e) for e in ("replay", "serial")]
    X = 0.5 * points(3, problems[0].dimension)  # farther, single precision rounds more
    np.testing.assert_allclose(problems[0].evaluate(X), problems[1].evaluate(X), rtol=0, atol=CLOSE)
    values = [problem._evaluator.log_probs(X, mixed_batch()) for problem in problems]
    np.testing.assert_allclose(*values, rtol=0, atol=SINGLE)


@pytest.mark.parametrize("moved", SUBSPACES)
@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=ids_of)
def test_single_label_words_are_compared_without_the_rest_of_the_vocabulary(
    family, changes, moved, small_model, model_state, points, monkeypatch
):
    loaded = small_model(family, dtype=torch.float64, **changes)
    if family == "marian":
        loaded.model.final_logits_bias.copy_(torch.linspace(-3, 3, 261))
    rows = [{"text": text, "label": text[0]} for text in ("yes, of course", "no", "yes", "not at all", "yes and no")]
    task = lp.tasks.Classification.from_records(
        rows, text="text", label="label", prompt="{text} is", labels={"y": "Y", "n": "N"}, dev=rows, test=rows
    )
    fast, serial = both(loaded, SUBSPACES[moved])
    X, batch, before = points(3, serial.subspace.dimension), task.batch(loaded, "search", 0), model_state(loaded.model)
    assert batch.contrast
    monkeypatch.setattr(encoder_decoder, "log_normaliser", lambda logits: pytest.fail("the vocabulary was read"))
    found, expected = (e.log_probs(X, batch) for e in (fast, serial))
    np.testing.assert_allclose(batch.comparable(found), batch.comparable(expected), rtol=0, atol=1e-6)
    assert np.abs(np.diff(expected[:, :2], axis=1)).max() > 0.01
    np.testing.assert_array_equal(fast.log_probs(X[1:2], batch)[0], found[1])
    assert model_state(loaded.model) == before


@pytest.mark.parametrize("moved", SUBSPACES)
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_a_value_does_not_depend_on_its_population(family, moved, small_model, points):
    loaded = small_model(family)
    fast, _ = both(loaded, SUBSPACES[moved])
    X, batch = points(16, fast.subspace.dimension), mixed_batch()
    alone = np.concatenate([fast.log_probs(X[i : i + 1], batch) for i in range(16)])
    for n in (2, 7, 16):
        fresh, _ = both(loaded, SUBSPACES[moved])  # whose memory another candidate fills
        np.testing.assert_array_equal(fresh.log_probs(X[-n:], batch), alone[-n:])


@pytest.mark.parametrize(("tokens", "memory"), [(1, 2**30), (20, 2**30), (70, 2**30), (70, 5000), (70, 0)])
def test_small_groups_and_little_memory_give_the_same_values(tokens, memory, small_model, points, monkeypatch):
    monkeypatch.setattr(encoder_decoder, "TOKENS_PER_GROUP", tokens)
    monkeypatch.setattr(encoder_decoder, "MEMORY", memory)
    for moved in ("last layer", "encoder"):
        fast, serial = both(small_model("t5"), SUBSPACES[moved])
        X, batch = points(2, serial.subspace.dimension), mixed_batch()
        found = fast.log_probs(X, batch)
        np.testing.assert_allclose(found, serial.log_probs(X, batch), rtol=0, atol=SINGLE)
        np.testing.assert_array_equal(fast.log_probs(X, batch), found)
        groups = fast._groups[batch]
        assert sorted(np.concatenate([g.entry for g in groups]).tolist()) == list(range(batch.entries))
        assert len(groups) == len(batch.sequences) or tokens > 1
        assert fast._bytes() == sum(map(encoder_decoder._size, groups)) <= memory
        assert all((g.memory is None) == (g.kept is None) for g in groups)
        if moved == "last layer":
            assert any(g.kept is None for g in groups) == (memory < 2**30)


def test_sources_of_different_lengths_go_together_where_they_cost_little(small_model):
    builder = BatchBuilder()
    for length in range(4, 64):
        builder.start_example(0)
        builder.read(builder.add_sequence([1], builder.add_source([9] * length)), 0, 9, 0)
    batch, groups = builder.build(), {}
    for moved in ("last layer", "one of the cross projections"):
        fast, serial = both(small_model("t5"), SUBSPACES[moved])
        x = np.ones((1, serial.subspace.dimension))
        np.testing.assert_allclose(fast.log_probs(x, batch), serial.log_probs(x, batch), rtol=0, atol=SINGLE)
        groups[moved] = len(fast._groups[batch])
    assert groups["last layer"] < groups["one of the cross projections"] < 10


def test_what_x_does_not_move_runs_once(small_model, points):
    loaded = small_model("marian")
    fast, _ = both(loaded, SUBSPACES["last layer"])
    batch, calls = mixed_batch(), {}

    def count(name):
        def hook(module, args, output):
            calls[name] = calls.get(name, 0) + 1

        return hook

    parts = loaded.model.model
    watched = {f"decoder {k}": layer.fc1 for k, layer in enumerate(parts.decoder.layers)}
    watched |= {"encoder": parts.encoder, "q": parts.decoder.layers[2].encoder_attn.q_proj}
    handles = [module.register_forward_hook(count(name)) for name, module in watched.items()]
    with torch.inference_mode():
        fast._read(batch)
    once = dict(calls)
    groups = len(fast._groups[batch])
    assert once == {"encoder": 5, **{name: groups for name in watched if name != "encoder"}}
    values = parts.decoder.layers[2].encoder_attn.v_proj.weight
    with Hidden(values):  # would be seen if the projection ran again; not a change that counts as one
        again = fast.log_probs(points(3, fast.subspace.dimension), batch)
    for handle in handles:
        handle.remove()
    assert np.isfinite(again).all()
    assert calls == {**once, "decoder 2": 4 * groups, "q": 4 * groups}


class Hidden:
    """The numbers of a tensor are NaN for a while, behind the back of its version counter."""

    def __init__(self, tensor):
        self.numbers = tensor.detach().numpy()
        self.before = self.numbers.copy()

    def __enter__(self):
        self.numbers[...] = np.nan

    def __exit__(self, *error):
        self.numbers[...] = self.before


@pytest.mark.parametrize("part", ["encoder", "kept layer", "moved layer"])
@pytest.mark.parametrize("filled", [False, True], ids=["first evaluation", "later evaluation"])
@pytest.mark.parametrize("family", ["t5", "marian"])
def test_an_evaluation_that_raises_leaves_everything_as_it_was(
    family, filled, part, small_model, model_state, points, monkeypatch
):
    loaded = small_model(family)
    fast, serial = both(loaded, SUBSPACES["last layer"])
    X, batch, before = points(2, serial.subspace.dimension), mixed_batch(), model_state(loaded.model)
    expected = serial.log_probs(X, batch)
    if filled:
        fast.log_probs(X, batch)
    attention = {
        "encoder": {"t5": "encoder.block.1.layer.0", "marian": "model.encoder.layers.1.self_attn"},
        "kept layer": {"t5": "decoder.block.1.layer.1", "marian": "model.decoder.layers.1.encoder_attn"},
        "moved layer": {"t5": "decoder.block.2.layer.1", "marian": "model.decoder.layers.2.encoder_attn"},
    }[part][family]
    broken = loaded.model.get_submodule(attention)

    def fail(module, args, kwargs):
        seen.append(model_state(loaded.model) != before)
        raise MemoryError("no more memory")

    seen, handle = [], broken.register_forward_pre_hook(fail, with_kwargs=True)
    if filled and part != "moved layer":  # not run again
        fast.log_probs(X[1:], batch)
        assert not seen
    else:
        with pytest.raises(MemoryError):
            fast.log_probs(X[1:], batch)
        assert seen == [True]
    handle.remove()
    assert model_state(loaded.model) == before
    np.testing.assert_allclose(fast.log_probs(X, batch), expected, rtol=0, atol=SINGLE)
    assert model_state(loaded.model) == before


@pytest.mark.parametrize("moved", SUBSPACES)
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_evaluating_leaves_the_model_bit_identical(family, moved, small_model, model_state, points):
    loaded = small_model(family)
    fast, _ = both(loaded, SUBSPACES[moved])
    before = model_state(loaded.model)
    X = points(3, fast.subspace.dimension)
    X[2] *= 1e30
    fast.log_probs(X, mixed_batch())
    assert model_state(loaded.model) == before


def test_a_forward_that_somebody_put_on_an_instance_stays_there(small_model, points):
    loaded = small_model("t5")
    layer = loaded.model.decoder.block[0]
    layer.forward = own = layer.forward
    fast, serial = both(loaded, SUBSPACES["last layer"])
    X, batch = points(2, serial.subspace.dimension), mixed_batch()
    for _ in range(2):
        np.testing.assert_allclose(fast.log_probs(X, batch), serial.log_probs(X, batch), rtol=0, atol=SINGLE)
        assert vars(layer)["forward"] is own


@pytest.mark.parametrize(
    "name", ["shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", "decoder.final_layer_norm.weight"]
)
@pytest.mark.parametrize("moved", ["last layer", "encoder"])
def test_weights_changed_from_outside_are_not_answered_from_memory(moved, name, small_model, points):
    loaded = small_model("t5")
    fast, serial = both(loaded, SUBSPACES[moved])
    X, batch = points(2, serial.subspace.dimension), mixed_batch()
    before = fast.log_probs(X, batch)
    with torch.no_grad():
        loaded.model.get_parameter(name).mul_(1.5)
    expected = serial.log_probs(X, batch)
    assert np.abs(expected - before).max() > 0.01
    np.testing.assert_allclose(fast.log_probs(X, batch), expected, rtol=0, atol=2 * SINGLE)


def test_embeddings_of_the_decoder_alone_do_not_move_the_encoder(small_model, points):
    loaded = small_model("marian", share_encoder_decoder_embeddings=False)

    class Embeddings(lp.subspaces.BoundSubspace):
        parameters, dimension = ("model.decoder.embed_tokens.weight",), 2

        def deltas(self, X):
            from llm_problem.subspaces.deltas import DenseDelta

            like = loaded.model.get_parameter(self.parameters[0])
            direction = torch.linspace(-1, 1, like.numel()).view_as(like)
            return [DenseDelta(self.parameters[0], X.to(like).sum(1)[:, None, None] * direction)]

        def basis(self):
            return iter(())

    fast, serial = EncoderDecoderEvaluator(loaded, Embeddings()), SerialEvaluator(loaded, Embeddings())
    assert "GiB: the encoder, 6 key" in fast.description
    X, batch = points(3, 2), mixed_batch()
    np.testing.assert_allclose(fast.log_probs(X, batch), serial.log_probs(X, batch), rtol=0, atol=2 * SINGLE)
