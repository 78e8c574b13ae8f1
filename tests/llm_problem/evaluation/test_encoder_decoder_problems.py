"""Problems on encoder-decoder models: which evaluator they get, gradients, threads, precisions."""

import dataclasses
from threading import Barrier, Thread

import numpy as np
import pytest
import torch

import llm_problem as lp
from llm_problem.evaluation import EncoderDecoderEvaluator, NotReplayableError
from llm_problem.models import load_model
from llm_problem.models.families import ENCODER_DECODERS

CLOSE = 2e-6  # nats, between losses
SUBSPACES = {
    "last layer": lp.subspaces.LoRAXS(2, layers=1),
    "cross attention": lp.subspaces.LoRAXS(2, layers=2, modules=("cross_q_proj", "cross_v_proj", "down_proj")),
    "one of the cross projections": lp.subspaces.LoRAXS(2, layers=[1], modules="cross_k_proj"),
    "first layer": lp.subspaces.RandomSubspace(5, layers=[0]),
    "encoder": lp.subspaces.LoRAXS(2, layers=1, modules=("encoder.q_proj", "encoder.down_proj")),
    "all": lp.subspaces.FullVector(),
}


def test_problems_that_share_a_model_do_not_mix(small_model, label_task, points):
    loaded = small_model("t5")
    makers = [
        lambda: lp.Problem(loaded, label_task, SUBSPACES["last layer"]),
        lambda: lp.Problem(loaded, label_task, SUBSPACES["encoder"]),
        lambda: lp.Problem(loaded, label_task, SUBSPACES["cross attention"], evaluator="serial"),
        lambda: lp.Problem(loaded, label_task, SUBSPACES["last layer"], minibatch=3),
    ]
    X = [points(4, make().dimension, seed=k) for k, make in enumerate(makers)]
    expected = [make().evaluate(x) for make, x in zip(makers, X, strict=True)]
    problems = [make() for make in makers]
    interleaved = [[problem(x[i]) for problem, x in zip(problems, X, strict=True)] for i in range(4)]
    np.testing.assert_array_equal(np.transpose(interleaved), expected)
    sampled = [problems[3].evaluate(X[3], sample=k) for k in (0, 1, 0)]
    np.testing.assert_array_equal(sampled[0], sampled[2])
    serial = lp.Problem(loaded, label_task, SUBSPACES["last layer"], minibatch=3, evaluator="serial")
    np.testing.assert_allclose(sampled[1], serial.evaluate(X[3], sample=1), rtol=0, atol=CLOSE)


def test_problems_that_share_a_model_work_from_several_threads(small_model, label_task, points):
    loaded = small_model("marian")
    problems = [lp.Problem(loaded, label_task, SUBSPACES[moved]) for moved in ("last layer", "encoder")]
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


@pytest.mark.parametrize("moved", ["last layer", "encoder", "all"])
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_gradients_are_those_of_finite_differences(family, moved, small_model, label_task):
    loaded = small_model(family, dtype=torch.float64)
    # Units that move what these models hardly learnt to tell apart are so long that the loss is not smooth any more.
    subspace = dataclasses.replace(SUBSPACES[moved], scale=0.002 if moved == "all" else 0.3)
    problems = [lp.Problem(loaded, label_task, subspace, evaluator=e) for e in ("replay", "serial")]
    rng = np.random.default_rng(0)
    x, step = rng.standard_normal((2, problems[0].dimension))
    (loss, gradient), (expected, reference) = (problem.value_and_grad(x) for problem in problems)
    assert loss == expected
    np.testing.assert_array_equal(gradient, reference)
    assert loaded.model.get_input_embeddings().padding_idx == (1 if family == "marian" else None)
    h = 3e-3
    slope = (problems[1](x + h * step) - problems[1](x - h * step)) / (2 * h)
    # T5 norms in single precision whatever it is in, which is worth 1e-8 nats of a difference.
    assert slope == pytest.approx(gradient @ step, rel=1e-3, abs=1e-6 if family == "marian" else 1e-3)


@pytest.mark.parametrize(
    ("moved", "says"),
    [
        ("last layer", "GiB: the encoder, decoder layers 0 to 1 of 3, 2 key and value projections of the cross"),
        ("one of the cross projections", "the encoder, decoder layers 0 to 0 of 3, 3 key and value projections"),
        ("first layer", "GiB: the encoder, 6 key and value projections"),
        ("encoder", "encoder and decoder are run"),
        ("all", "encoder and decoder are run"),
    ],
)
def test_the_card_says_what_is_computed_once(moved, says, small_model, label_task):
    card = lp.Problem(small_model("t5"), label_task, SUBSPACES[moved]).card()
    assert card["evaluator"].startswith("replay (agrees with the serial one")
    assert says in card["evaluator"]


@pytest.mark.parametrize("wrong", [1.1, torch.nan])
def test_an_evaluator_that_is_wrong_is_found_out(wrong, small_model, label_task, monkeypatch):
    right = EncoderDecoderEvaluator._decoded
    monkeypatch.setattr(EncoderDecoderEvaluator, "_decoded", lambda self, *args: right(self, *args) * wrong)
    problem = lp.Problem(small_model("t5"), label_task, SUBSPACES["last layer"])
    assert "differs from the serial one by" in problem.card()["evaluator"]
    with pytest.raises(ValueError, match="cannot do this model"):
        lp.Problem(small_model("t5"), label_task, SUBSPACES["last layer"], evaluator="replay")


def test_a_family_that_was_not_tried_gets_the_serial_evaluator(closing_tokenizer, label_task):
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
    both_parts = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in sizes.items()}
    config = BartConfig(vocab_size=261, d_model=32, max_position_embeddings=64, pad_token_id=1, **both_parts)
    loaded = load_model((BartForConditionalGeneration(config), closing_tokenizer))
    subspace = lp.subspaces.LoRAXS(2, layers=1, modules="self_attn.q_proj")
    with pytest.raises(NotReplayableError, match="'bart' has not been tried"):
        EncoderDecoderEvaluator(loaded, subspace.bind(loaded, 0))
    problem = lp.Problem(loaded, label_task, subspace)
    assert problem.card()["evaluator"].startswith("serial (not replayable: ")
    assert np.isfinite(problem(problem.x0))


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-6), (torch.bfloat16, 0.3), (torch.float16, 0.1)])
def test_other_precisions_of_a_pair_get_the_fast_evaluator(dtype, close, small_pair, label_task, points):
    model, tokenizer = small_pair("t5", dtype=dtype)
    for block in model.decoder.block:  # as transformers leaves them when it loads T5 in half precision
        block.layer[2].DenseReluDense.wo.float()
    loaded = load_model((model, tokenizer))
    for subspace in (SUBSPACES["cross attention"], lp.subspaces.RandomSubspace(3, modules=("q_proj", "down_proj"))):
        problems = [lp.Problem(loaded, label_task, subspace, evaluator=e) for e in ("replay", "serial")]
        X = points(2, problems[0].dimension)
        np.testing.assert_allclose(problems[0].evaluate(X), problems[1].evaluate(X), rtol=0, atol=close)
