"""Moved prompts: the serial evaluator against transformers and PEFT, written out, and replay against the serial one."""

import copy

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import llm_problem as lp
from llm_problem.evaluation import EncoderDecoderEvaluator, ReplayEvaluator, SerialEvaluator
from llm_problem.evaluation.layer import Layer
from llm_problem.models import load_model
from llm_problem.models.families import ENCODER_DECODERS, FAMILIES
from llm_problem.subspaces.base import BoundSubspace
from llm_problem.tasks.batch import BatchBuilder

TEXT = "Say it: "
SOFT, PREFIX, LAST, MIDDLE = "soft prompt", "prefix", "prefix of the last layer", "prefix of a middle layer"
SUBSPACES = {
    SOFT: lp.subspaces.SoftPrompt(TEXT, 6),
    PREFIX: lp.subspaces.Prefix(TEXT, 6),
    LAST: lp.subspaces.Prefix(TEXT, 6, layers=1),
    MIDDLE: lp.subspaces.Prefix(TEXT, 6, layers=[1]),
}
VARIANTS = [
    *((family, {}) for family in FAMILIES),
    ("llama", {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    ("bert", {"is_decoder": True}),
]
WINDOW = ("mistral", {"sliding_window": 4})
# Those whose windows or biases only the serial evaluator does, too.
REFERENCE = [*VARIANTS, WINDOW, ("bloom", {})]
SMALL = [("llama", SOFT), ("llama", PREFIX), ("llama", LAST), ("gpt2", SOFT), ("gpt2", PREFIX), ("bert", SOFT)]
ANY = pytest.mark.parametrize(("family", "moved"), SMALL)


def fitting(variants, kinds):
    """(family, changes, what is moved): a prefix is for causal models."""
    return [
        pytest.param(family, changes, moved, id=f"{family}{k}-{moved}")
        for k, (family, changes) in enumerate(variants)
        for moved in kinds
        if moved == SOFT or family not in ("bert", "roberta") or "is_decoder" in changes
    ]


class Together(BoundSubspace):
    """Several subspaces beside one another, x cut into their parts."""

    def __init__(self, *parts):
        self.parts, self.dimension = parts, sum(part.dimension for part in parts)
        self.parameters = tuple(name for part in parts for name in part.parameters)
        self.prompt = next(part.prompt for part in parts if part.prompt)

    def deltas(self, X):
        pieces = X.split([part.dimension for part in self.parts], dim=1)
        return [delta for part, piece in zip(self.parts, pieces, strict=True) for delta in part.deltas(piece)]

    def basis(self):
        return (tensor for part in self.parts for tensor in part.basis())


def mixed_batch(prompt, sources=False):
    """Sequences of several lengths, some of one token; for an encoder-decoder, each of a source of its own length."""
    rng = np.random.default_rng(3)
    builder = BatchBuilder()
    for number, length in enumerate((5, 1, 17, 2, 1, 40, 8)):
        builder.start_example(number % 2)
        source = builder.add_source([*rng.integers(5, 261, 3 + 5 * number), 2]) if sources else None
        sequence = builder.add_sequence(rng.integers(5, 261, length), source)
        for position in {0, length // 2, length - 1}:
            for answer in (0, 1):
                builder.read(sequence, position, int(rng.integers(5, 261)), answer)
    return builder.build().prompted(prompt)


@torch.no_grad()
def by_hand(loaded, bound, x, batch):
    """Log-probabilities (E,): embeddings or a cache put together here and given to the stock model."""
    model, p = loaded.model, len(bound.prompt)
    deltas = bound.deltas(torch.from_numpy(x[None]))
    found = np.empty(batch.entries)
    for number, ids in enumerate(batch.sequences):
        read = torch.from_numpy(batch.sources[batch.source[number]] if batch.sources else ids)[None]
        if hasattr(deltas[0], "value"):
            embedded = model.get_input_embeddings()(read)
            embedded[:, :p] += deltas[0].value
            if getattr(model.config, "scale_embedding", False):  # which Marian leaves to whoever brings embeddings
                embedded *= model.config.d_model**0.5
            options = {"decoder_input_ids": torch.from_numpy(ids)[None]} if batch.sources else {}
            logits = model(inputs_embeds=embedded, **options).logits[0]
        else:
            cache = DynamicCache()  # of all tokens, also where the model has a window
            model(input_ids=read[:, :p], past_key_values=cache, use_cache=True)
            for delta in deltas:
                cache.layers[delta.layer].keys = cache.layers[delta.layer].keys + delta.keys
                cache.layers[delta.layer].values = cache.layers[delta.layer].values + delta.values
            after = model(input_ids=read[:, p:], past_key_values=cache, use_cache=True).logits[0]
            logits = torch.cat([after.new_zeros(p, after.shape[1]), after])
        entries = batch.sequence == number
        found[entries] = logits.double().log_softmax(-1)[batch.position[entries], batch.token[entries]]
    return found


@pytest.mark.parametrize(("family", "changes", "moved"), fitting(REFERENCE, [SOFT, PREFIX]))
@torch.no_grad()
def test_serial_values_are_those_of_stock_transformers(family, changes, moved, small_model, points):
    loaded = small_model(family, **changes)
    bound = SUBSPACES[moved].bind(loaded, 0)
    batch, X = mixed_batch(bound.prompt), points(3, bound.dimension)
    found = SerialEvaluator(loaded, bound).log_probs(X, batch)
    assert np.abs(found[1:] - found[0]).max() > 0.1
    for values, x in zip(found, X, strict=True):
        np.testing.assert_allclose(values, by_hand(loaded, bound, x, batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "changes", "moved"), fitting(REFERENCE, [SOFT, PREFIX, MIDDLE]))
@torch.no_grad()
def test_at_zero_the_model_is_the_pretrained_one_that_reads_the_prompt(family, changes, moved, small_model):
    loaded = small_model(family, **changes)
    bound = SUBSPACES[moved].bind(loaded, 0)
    batch = mixed_batch(bound.prompt)
    found = SerialEvaluator(loaded, bound).log_probs(np.zeros((1, bound.dimension)), batch)[0]
    for number, ids in enumerate(batch.sequences):
        entries = batch.sequence == number
        log_p = loaded.model(torch.from_numpy(ids)[None]).logits[0].double().log_softmax(-1)
        expected = log_p[batch.position[entries], batch.token[entries]]
        np.testing.assert_allclose(found[entries], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "changes", "one_module"),
    [
        *((family, {}, one_module) for family in ENCODER_DECODERS for one_module in (False, True)),
        ("marian", {"share_encoder_decoder_embeddings": False}, False),
    ],
)
def test_an_encoder_decoder_reads_the_prompt_before_its_sources(family, changes, one_module, small_model, points):
    loaded = small_model(family, **changes)
    if one_module:  # shared by encoder and decoder, as after set_input_embeddings
        loaded.model.set_input_embeddings(loaded.model.get_input_embeddings())
    bound = SUBSPACES[SOFT].bind(loaded, 0)
    batch, X = mixed_batch(bound.prompt, sources=True), points(3, bound.dimension)
    serial = SerialEvaluator(loaded, bound).log_probs(X, batch)
    assert np.abs(serial[1:] - serial[0]).max() > 0.03
    if not changes:  # else the hand's embeddings are the decoder's
        expected = [by_hand(loaded, bound, x, batch) for x in X]
        np.testing.assert_allclose(serial, expected, rtol=0, atol=1e-5)
    fast = EncoderDecoderEvaluator(loaded, bound)
    np.testing.assert_allclose(fast.log_probs(X, batch), serial, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(fast.log_probs(X, batch)[2], fast.log_probs(X[2:], batch)[0])


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize(("family", "changes", "moved"), fitting(VARIANTS, SUBSPACES))
def test_replay_equals_serial(family, changes, moved, small_model, points):
    loaded = small_model(family, dtype=torch.float64, **changes)
    bound = SUBSPACES[moved].bind(loaded, 0)
    batch, X = mixed_batch(bound.prompt), points(3, bound.dimension)
    replaying, expected = ReplayEvaluator(loaded, bound, batch), SerialEvaluator(loaded, bound).log_probs(X, batch)
    assert replaying.planned
    assert np.abs(expected[1:] - expected[0]).max() > 0.1
    found = replaying.log_probs(X, batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)
    np.testing.assert_array_equal(replaying.log_probs(X, batch), found)  # now from memory


BESIDE = {
    "whole tensors": (lp.subspaces.FullVector(), False),
    "the last layer": (lp.subspaces.LoRAXS(2, layers=1, modules=("q_proj", "k_proj", "v_proj")), True),
    "all layers": (lp.subspaces.LoRAXS(2, modules=("q_proj", "k_proj", "down_proj")), True),
}


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize("other", BESIDE)
@pytest.mark.parametrize(
    ("family", "moved"),
    [(f, m) for f in ("qwen3", "gpt2", "gpt_neox", "bert") for m in SUBSPACES if f != "bert" or m == SOFT],
)
def test_prompts_are_moved_beside_weights(family, moved, other, small_model, points):
    """A moved prefix is the pretrained model's cache, whatever x does to the weights."""
    loaded, (beside, planned) = small_model(family, dtype=torch.float64), BESIDE[other]
    bound = Together(SUBSPACES[moved].bind(loaded, 0), beside.bind(loaded, 0))
    batch, X = mixed_batch(bound.prompt), points(3, bound.dimension)
    replaying, expected = ReplayEvaluator(loaded, bound, batch), SerialEvaluator(loaded, bound).log_probs(X, batch)
    assert replaying.planned == planned
    np.testing.assert_allclose(replaying.log_probs(X, batch), expected, rtol=0, atol=3e-6)
    np.testing.assert_allclose(replaying.log_probs(X, batch), expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("family", "changes", "moved"), fitting([(name, {}) for name in FAMILIES], [SOFT, PREFIX]))
def test_a_value_does_not_depend_on_its_population(family, changes, moved, small_model, points):
    loaded = small_model(family, **changes)
    bound = SUBSPACES[moved].bind(loaded, 0)
    batch, X = mixed_batch(bound.prompt), points(33, bound.dimension)
    evaluator = ReplayEvaluator(loaded, bound, batch)
    alone = np.concatenate([evaluator.log_probs(x[None], batch) for x in X])
    for n in (2, 7, 16, 33):
        np.testing.assert_array_equal(evaluator.log_probs(X[-n:], batch), alone[-n:])


@pytest.mark.usefixtures("narrow_chunks")
@ANY
def test_evaluating_leaves_the_model_as_it_was(family, moved, small_model, label_task, model_state, points):
    loaded = small_model(family)
    for evaluator in ("replay", "serial"):
        problem = lp.Problem(loaded, label_task, SUBSPACES[moved], evaluator=evaluator)
        before, X = model_state(loaded.model), points(3, problem.dimension)
        X[2] *= 1e30
        problem.evaluate(X)
        problem.value_and_grad(X[1])
        assert model_state(loaded.model) == before


@pytest.mark.usefixtures("narrow_chunks")
@ANY
def test_an_evaluation_that_raises_leaves_the_model_as_it_was(family, moved, small_model, model_state, monkeypatch):
    loaded = small_model(family)
    bound = SUBSPACES[moved].bind(loaded, 0)
    batch, X = mixed_batch(bound.prompt), np.ones((1, bound.dimension))
    serial, replaying = SerialEvaluator(loaded, bound), ReplayEvaluator(loaded, bound, batch)
    before, expected = model_state(loaded.model), serial.log_probs(X, batch)

    def broken(*args, **kwargs):
        raise MemoryError("no more memory")

    layer = type(loaded.model.get_submodule(FAMILIES[family].layers)[0])
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", broken)
        patch.setattr(Layer, "_mlp", broken)
        for evaluate in (serial.log_probs, replaying.log_probs):
            with pytest.raises(MemoryError, match="no more memory"):
                evaluate(X, batch)
    assert model_state(loaded.model) == before
    for evaluate in (serial.log_probs, replaying.log_probs):
        np.testing.assert_allclose(evaluate(X, batch), expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("narrow_chunks")
@ANY
def test_weights_changed_from_outside_are_not_answered_from_memory(family, moved, small_model, points):
    loaded = small_model(family)
    bound = SUBSPACES[moved].bind(loaded, 0)
    batch, X = mixed_batch(bound.prompt), points(2, bound.dimension)
    replaying = ReplayEvaluator(loaded, bound, batch)
    before = replaying.log_probs(X, batch)
    with torch.no_grad():
        next(loaded.model.get_submodule(FAMILIES[family].layers)[0].parameters()).mul_(1.5)
    expected = SerialEvaluator(loaded, bound).log_probs(X, batch)
    assert np.abs(expected - before).max() > 0.01
    np.testing.assert_allclose(replaying.log_probs(X, batch), expected, rtol=0, atol=1e-5)


# Llama's norms stay in single precision, in which differences are no derivatives.
@pytest.mark.parametrize(("family", "moved"), [case for case in SMALL if case[0] != "llama"])
def test_gradients_are_those_of_differences(family, moved, small_pair, label_task):
    problem = lp.Problem(load_model(small_pair(family, dtype=torch.float64)), label_task, SUBSPACES[moved])
    x, step = np.random.default_rng(1).standard_normal(problem.dimension), 1e-5
    loss, gradient = problem.value_and_grad(x)
    serial = lp.Problem((problem.model, problem.tokenizer), label_task, SUBSPACES[moved], evaluator="serial")
    differences = [(serial(x + step * e) - serial(x - step * e)) / (2 * step) for e in np.eye(x.size)]
    assert loss == pytest.approx(serial(x), abs=1e-12)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)


@ANY
def test_gradients_are_the_serial_evaluators(family, moved, small_model, label_task, check_gradients):
    check_gradients(small_model(family), label_task, SUBSPACES[moved])


def test_a_batch_without_the_prompt_is_refused(small_model):
    loaded = small_model("gpt2")
    bound = SUBSPACES[SOFT].bind(loaded, 0)
    plain, X = mixed_batch(()), np.zeros((1, 6))
    with pytest.raises(ValueError, match=r"does not start with the subspace's prompt: use batch.prompted"):
        SerialEvaluator(loaded, bound).log_probs(X, plain)
    replaying = ReplayEvaluator(loaded, bound, mixed_batch(bound.prompt))
    with pytest.raises(ValueError, match="does not start with the subspace's prompt"):
        replaying.log_probs(X, plain)


@pytest.mark.usefixtures("narrow_chunks")
@ANY
def test_a_problem_with_a_prompt_does_what_others_do(family, moved, small_model, label_task, tmp_path, points):
    problem = lp.Problem(small_model(family), label_task, SUBSPACES[moved], minibatch=2)
    X, serial = points(3, 6), lp.Problem(problem._loaded, label_task, SUBSPACES[moved], minibatch=2, evaluator="serial")
    assert problem.card()["evaluator"].startswith("replay (agrees with the serial one)")
    assert problem.card()["moved_tensors"] == serial.card()["moved_tensors"] == 0
    for sample in (None, 1):
        np.testing.assert_allclose(problem.evaluate(X, sample), serial.evaluate(X, sample), rtol=0, atol=1e-5)
    losses, _ = problem.race(X, problem.x0, z=1e9)
    np.testing.assert_allclose(losses, problem.evaluate(X), rtol=0, atol=1e-6)
    assert problem.metrics(X[1])["loss"] == pytest.approx(serial.metrics(X[1])["loss"], abs=1e-5)
    with pytest.raises(ValueError, match=r"a prompt's .* cannot be merged into weights: use save_adapter"):
        problem.save_model(X[1], tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("narrow_chunks")
@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("tiny_gpt2", SOFT),
        ("tiny_gpt2", PREFIX),
        ("tiny_bert", SOFT),
        pytest.param("smollm2", SOFT, marks=pytest.mark.real),
        pytest.param("smollm2", PREFIX, marks=pytest.mark.real),
    ],
)
def test_real_models(name, moved, request, points):
    loaded = request.getfixturevalue(name)
    records = [{"text": "an odd little film", "label": "1"}, {"text": "two hours of nothing at all", "label": "0"}]
    task = lp.tasks.Classification.from_records(
        records,
        text="text",
        label="label",
        prompt="{text} It was {label}" if loaded.kind == "masked" else "{text} It was",
        labels={"0": "bad", "1": "good"} if loaded.kind == "masked" else {"0": " bad", "1": " good"},
        dev=lp.tasks.Data.of(records),
        test=lp.tasks.Data.of(records),
    )
    subspace = type(SUBSPACES[moved])("Is the film good? ", 8)
    problem, serial = (lp.Problem(loaded, task, subspace, evaluator=e) for e in ("replay", "serial"))
    assert problem.evaluator.planned
    X, batch = points(3, 8), serial.batch("search")
    for values, x in zip(serial.evaluator.log_probs(X, batch), X, strict=True):
        np.testing.assert_allclose(values, by_hand(loaded, serial.subspace, x, batch), rtol=0, atol=2e-5)
    losses = problem.evaluate(X)
    assert np.abs(losses[1:] - losses[0]).max() > 1e-3
    np.testing.assert_allclose(losses, serial.evaluate(X), rtol=0, atol=2e-5)


TASK_TYPES = {"causal": "CAUSAL_LM", "masked": "FEATURE_EXTRACTION", "seq2seq": "SEQ_2_SEQ_LM"}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert", "roberta", "t5"])
@torch.no_grad()
def test_a_soft_prompt_is_pefts_prompt_tuning(family, small_model, points):
    peft = pytest.importorskip("peft")
    loaded = small_model(family)
    bound = SUBSPACES[SOFT].bind(loaded, 0)
    p, x = len(bound.prompt), points(2, bound.dimension)[1]
    batch = mixed_batch(bound.prompt, sources=loaded.kind == "seq2seq")
    config = peft.PromptTuningConfig(task_type=TASK_TYPES[loaded.kind], num_virtual_tokens=p)
    tuned = peft.get_peft_model(copy.deepcopy(loaded.model), config).eval()
    embeddings = loaded.model.get_input_embeddings().weight[list(bound.prompt)]
    virtual = embeddings + bound.deltas(torch.from_numpy(x[None]))[0].value[0]
    tuned.prompt_encoder["default"].embedding.weight[:p] = virtual
    found = SerialEvaluator(loaded, bound).log_probs(x[None], batch)[0]
    for number, ids in enumerate(batch.sequences):
        if batch.sources:
            source = torch.from_numpy(batch.sources[batch.source[number]][p:])[None]
            logits = tuned(input_ids=source, decoder_input_ids=torch.from_numpy(ids)[None]).logits[0]
        else:
            logits = tuned(input_ids=torch.from_numpy(ids[p:])[None]).logits[0]
        entries = batch.sequence == number
        expected = logits.double().log_softmax(-1)[batch.position[entries], batch.token[entries]]
        np.testing.assert_allclose(found[entries], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@torch.no_grad()
def test_a_prefix_is_pefts_prefix_tuning(family, small_model, points):
    peft = pytest.importorskip("peft")
    loaded = small_model(family)
    bound = SUBSPACES[PREFIX].bind(loaded, 0)
    p, x = len(bound.prompt), points(2, bound.dimension)[1]
    cache = loaded.model(torch.tensor([bound.prompt]), use_cache=True).past_key_values
    batch, layers = mixed_batch(bound.prompt), []
    for delta in bound.deltas(torch.from_numpy(x[None])):
        kept = cache.layers[delta.layer]
        layers += [kept.keys[0] + delta.keys[0], kept.values[0] + delta.values[0]]  # (shared heads, p, size)
    heads, _, size = layers[0].shape
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=p,
        num_layers=len(layers) // 2,
        num_attention_heads=heads,
        token_dim=heads * size,
        inference_mode=True,
    )
    tuned = peft.get_peft_model(copy.deepcopy(loaded.model), config).eval()
    # (p, layers · 2 · shared heads · size)
    tuned.prompt_encoder["default"].embedding.weight.copy_(torch.stack(layers).permute(2, 0, 1, 3).reshape(p, -1))
    found = SerialEvaluator(loaded, bound).log_probs(x[None], batch)[0]
    for number, ids in enumerate(batch.sequences):
        logits = tuned(input_ids=torch.from_numpy(ids[p:])[None]).logits[0]
        entries = batch.sequence == number
        expected = logits.double().log_softmax(-1)[batch.position[entries] - p, batch.token[entries]]
        np.testing.assert_allclose(found[entries], expected, rtol=0, atol=1e-5)
