"""The serial evaluator against a computation with plain transformers that shares no code with it."""

import copy
import functools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models.quiet import quiet_transformers
from tests.llm_problem.evaluation.written_out import (
    add_adapters,
    add_fastfood,
    add_full,
    add_lora,
    add_lora_xs,
    add_models,
    add_norms_and_biases,
    add_random,
    add_scales,
    add_singular_values,
    add_sparse,
    add_tiny_lora,
    add_together,
    add_vera,
)
from tests.llm_problem.subspace_examples import example

EXAMPLES = [("an odd little film , warm and wise", 1), ("two hours of nothing at all", 0), ("fine", 1), ("dull", 0)]
PROMPT = {"causal": "Review: {text} It was", "masked": "{text} It was {label}."}
WORDS = {"causal": (" bad", " really great"), "masked": ("bad", "good")}


@pytest.fixture(scope="module")
def stock():
    """A function: LoadedModel → the model as plain transformers loads it from its folder, and the tokenizer."""
    seen = {}

    def load(loaded):
        if loaded.source not in seen:
            auto = AutoModelForMaskedLM if loaded.kind == "masked" else AutoModelForCausalLM
            with quiet_transformers():
                model = auto.from_pretrained(loaded.source, dtype=torch.float32).eval()
                seen[loaded.source] = model, AutoTokenizer.from_pretrained(loaded.source)
        return seen[loaded.source]

    return load


@pytest.fixture(scope="module")
def loss_at_zero(stock):
    """A function: LoadedModel → `reference_loss` of the model as plain transformers loads it."""
    seen = {}

    def loss(loaded):
        if loaded.source not in seen:
            seen[loaded.source] = reference_loss(*stock(loaded), EXAMPLES)
        return seen[loaded.source]

    return loss


def reference_loss(model, tokenizer, examples):
    """Cross-entropy over two label words, in nats per example, one unpadded sequence at a time."""
    losses, masked = [], tokenizer.mask_token is not None
    for text, right in examples:
        scores = []
        for word in WORDS["masked" if masked else "causal"]:
            before = PROMPT["masked" if masked else "causal"].split(" {label}")[0].format(text=text)
            start = len(tokenizer(before)["input_ids"]) - masked  # BERT closes with [SEP]
            end = len(tokenizer(f"{before} {word.strip()}")["input_ids"]) - masked
            whole = torch.tensor(tokenizer(f"{before} {word.strip()}{'.' if masked else ''}")["input_ids"])
            shown = whole.clone() if masked else whole[:-1]  # what a causal model predicts last, it need not read
            if masked:
                shown[start:end] = tokenizer.mask_token_id
            log_p = model(shown[None]).logits[0].double().log_softmax(-1)
            scores.append(sum(log_p[k if masked else k - 1, whole[k]] for k in range(start, end)))
        losses.append(torch.nn.functional.cross_entropy(torch.stack(scores), torch.tensor(right)))
    return float(torch.stack(losses).mean())


def task_for(loaded):
    records = [{"text": text, "label": str(label)} for text, label in EXAMPLES]
    return lp.tasks.Classification.from_records(
        records,
        text="text",
        label="label",
        prompt=PROMPT[loaded.kind],
        labels=dict(zip(("0", "1"), WORDS[loaded.kind], strict=True)),
        dev=records,
        test=records,
    )


SUBSPACES = {
    "lora": (lp.subspaces.LoRA(2, layers=2, scale=0.2), add_lora),
    "adapter-mix": (functools.partial(example, "adapter-mix"), add_adapters),
    "model-mix": (functools.partial(example, "model-mix"), add_models),
    "together": (
        lp.subspaces.Together(
            (lp.subspaces.LoRAXS(3, layers=2, scale=1.0), lp.subspaces.RandomSubspace(6, 1, scale=2.0))
        ),
        add_together,
    ),
    "lora-xs": (lp.subspaces.LoRAXS(3, layers=2, scale=1.0), add_lora_xs),
    "random": (lp.subspaces.RandomSubspace(6, layers=1, scale=2.0), add_random),
    "singular-values": (lp.subspaces.SingularValues(layers=2, scale=0.3), add_singular_values),
    "tiny-lora": (lp.subspaces.TinyLoRA(7, rank=2, layers=2, scale=1.0), add_tiny_lora),
    "vera": (lp.subspaces.VeRA(6, layers=2, scale=0.5), add_vera),
    "full": (lp.subspaces.FullVector(scale=0.003), add_full),
    "sparse-projection": (lp.subspaces.SparseProjection(50, layers=1, scale=2.0), add_sparse),
    "fastfood": (lp.subspaces.Fastfood(12, layers=1, scale=4.0), add_fastfood),
    "scales": (lp.subspaces.Scales(layers=2, scale=0.3), add_scales),
    "norms-and-biases": (lp.subspaces.NormsAndBiases(layers=2, scale=0.2), add_norms_and_biases),
}

CASES = [(name, kind) for name in ("tiny_gpt2", "tiny_bert") for kind in SUBSPACES] + [
    pytest.param("smollm2", kind, marks=pytest.mark.real) for kind in SUBSPACES if kind not in ("full", "model-mix")
]


def test_every_subspace_is_compared_with_the_reference():
    prompts = {"prefix", "soft-prompt"}  # see test_prompts.py
    assert set(SUBSPACES) | prompts == set(lp.subspaces.SUBSPACES)


@pytest.mark.parametrize(("name", "kind"), CASES)
@torch.no_grad()
def test_serial_loss_equals_plain_transformers(name, kind, stock, loss_at_zero, request):
    loaded = request.getfixturevalue(name)
    subspace, add = SUBSPACES[kind]
    if callable(subspace):  # its description names files, made for the model
        subspace, add = subspace(loaded), functools.partial(add, loaded=loaded)
    problem = lp.Problem(loaded, task_for(loaded), subspace, seed=5, evaluator="serial")
    model, tokenizer = stock(loaded)
    at_zero = loss_at_zero(loaded)
    assert abs(problem(problem.x0) - at_zero) <= 1e-6
    x = 0.5 * np.random.default_rng(1).standard_normal(problem.dimension)  # farther, single precision rounds more
    changed = copy.deepcopy(model)
    add(changed, x)
    expected = reference_loss(changed, tokenizer, EXAMPLES)
    assert abs(expected - at_zero) > 3e-4  # else there was nothing to compare
    # Fastfood runs in the model's single precision, the reference in double; in thirty layers that counts. What is
    # mixed was made some units away from the model, where losses are large.
    assert abs(problem(x) - expected) <= (5e-6 if kind == "fastfood" or kind.endswith("-mix") else 1e-6)


@torch.no_grad()
def test_language_modelling_loss_equals_plain_transformers(tiny_gpt2, stock, text_task):
    problem = lp.Problem(tiny_gpt2, text_task, SUBSPACES["lora-xs"][0], evaluator="serial")
    model, tokenizer = stock(tiny_gpt2)
    tokens = torch.tensor(tokenizer(text_task.text("search"), add_special_tokens=False)["input_ids"])
    x = np.random.default_rng(2).standard_normal(problem.dimension)
    changed = copy.deepcopy(model)
    add_lora_xs(changed, x)
    for point, candidate in ((problem.x0, model), (x, changed)):
        windows = [tokens[k : k + 13] for k in range(0, len(tokens) - 12, 12)][: problem.batch("search").examples]
        losses = [torch.nn.functional.cross_entropy(candidate(w[None, :-1]).logits[0].double(), w[1:]) for w in windows]
        assert abs(problem(point) - float(torch.stack(losses).mean())) <= 1e-6


SMALL = [
    lp.subspaces.LoRAXS(2, layers=2),
    lp.subspaces.RandomSubspace(5, layers=1),
    lp.subspaces.FullVector(),
    lp.subspaces.Scales(),
    lp.subspaces.NormsAndBiases(final_norm=True),
]


@pytest.mark.parametrize("subspace", SMALL, ids=lambda subspace: subspace.kind)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_evaluating_leaves_the_model_bit_identical(family, subspace, small_model, label_task, model_state, points):
    problem = lp.Problem(small_model(family), label_task, subspace, evaluator="serial")
    before = model_state(problem.model)
    X = points(3, problem.dimension)
    X[2] *= 1e30
    problem.evaluate(X)
    assert model_state(problem.model) == before


def test_an_evaluation_that_raises_leaves_the_model_bit_identical(small_model, label_task, model_state, monkeypatch):
    loaded = small_model("llama")
    problem = lp.Problem(loaded, label_task, SMALL[0], evaluator="serial")
    before, at_zero = model_state(problem.model), problem(problem.x0)
    layer = loaded.model.model.layers[1]
    seen = []

    def broken(*args, **kwargs):
        seen.append(problem.model.model.layers[2].self_attn.q_proj.weight.clone())
        raise MemoryError("no more memory")

    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", broken)
        with pytest.raises(MemoryError, match="no more memory"):
            problem(np.ones(problem.dimension))
    vars(layer).pop("forward", None)  # monkeypatch puts the method back as an attribute of the instance
    assert not torch.equal(seen[0], problem.model.model.layers[2].self_attn.q_proj.weight)  # it was in the middle
    assert model_state(problem.model) == before
    assert problem(problem.x0) == at_zero


def test_deltas_that_raise_leave_the_model_bit_identical(small_model, label_task, model_state, monkeypatch):
    problem = lp.Problem(small_model("gpt2"), label_task, SMALL[0], evaluator="serial")
    before = model_state(problem.model)

    def broken(X):
        raise RuntimeError("no deltas")

    monkeypatch.setattr(problem.subspace, "deltas", broken)
    with pytest.raises(RuntimeError, match="no deltas"):
        problem(problem.x0)
    assert model_state(problem.model) == before


def test_the_model_can_be_trained_after_it_was_evaluated(small_model, label_task):
    problem = lp.Problem(small_model("llama"), label_task, lp.subspaces.FullVector(), evaluator="serial")
    problem(np.ones(problem.dimension))
    model = problem.model.requires_grad_(True)
    model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.requires_grad_(False)


def test_log_probabilities_come_entry_by_entry(small_model, text_task, points):
    loaded = small_model("qwen2")
    subspace = SMALL[0].bind(loaded, 0)
    evaluator, batch = SerialEvaluator(loaded, subspace), text_task.batch(loaded, "search", 0)
    values = evaluator.log_probs(points(2, subspace.dimension), batch)
    assert values.shape == (2, batch.entries)
    assert values.dtype == np.float64
    with torch.no_grad():
        logits = loaded.model(torch.from_numpy(batch.sequences[1])[None]).logits[0].double()
    entry = np.flatnonzero(batch.sequence == 1)[3]
    expected = logits.log_softmax(-1)[batch.position[entry], batch.token[entry]]
    assert abs(values[0, entry] - float(expected)) < 1e-6


def test_no_candidates_give_no_values(small_model, text_task):
    problem = lp.Problem(small_model("qwen2"), text_task, SMALL[0], evaluator="serial")
    assert problem.evaluate(np.empty((0, problem.dimension))).shape == (0,)
