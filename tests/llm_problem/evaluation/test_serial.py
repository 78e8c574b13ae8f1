"""The serial evaluator against a computation with plain transformers that shares no code with it."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models.quiet import quiet_transformers
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


def reference_loss(model, tokenizer, masked):
    """Cross-entropy over two label words, in nats per example, one unpadded sequence at a time."""
    losses = []
    for text, right in EXAMPLES:
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


def task_for(kind):
    return lp.tasks.Classification.from_records(
        [{"text": text, "label": str(label)} for text, label in EXAMPLES],
        text="text",
        label="label",
        prompt=PROMPT[kind],
        labels=dict(zip(("0", "1"), WORDS[kind], strict=True)),
        dev=[{"text": text, "label": str(label)} for text, label in EXAMPLES],
        test=[{"text": text, "label": str(label)} for text, label in EXAMPLES],
    )


def query_and_value(model, layers):
    """Views (out, in) of the query and value weights of the last layers; writing to them changes the model."""
    kind = model.config.model_type
    for layer in {
        "gpt2": lambda: model.transformer.h,
        "bert": lambda: model.bert.encoder.layer,
        "llama": lambda: model.model.layers,
    }[kind]()[-layers:]:
        if kind == "gpt2":  # fused, and stored as (in, out)
            fused = layer.attn.c_attn.weight
            width = fused.shape[0]
            yield from (fused[:, :width].T, fused[:, 2 * width :].T)
        elif kind == "bert":
            yield from (layer.attention.self.query.weight, layer.attention.self.value.weight)
        else:
            yield from (layer.self_attn.q_proj.weight, layer.self_attn.v_proj.weight)


def add_lora_xs(model, x):
    """ΔW = U_r Σ_r R V_rᵀ, each row of V_rᵀ with the sign that makes its sum positive.

    Multiplied in float32 as the model would: SmolLM2 takes weights that differ in their last bits for 3e-6 nats.
    """
    for weight, core in zip(query_and_value(model, layers=2), x.reshape(4, 3, 3), strict=True):
        u, s, vt = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
        flip = np.sign(vt.sum(axis=1))
        left, right = ((u * s * flip)[:, :3], (vt * flip[:, None])[:3])
        weight += torch.from_numpy(left).float() @ torch.from_numpy(core).float() @ torch.from_numpy(right).float()


def add_random(model, x, seed=5):
    """Δθ = Σ_k x_k p_k with Gaussian directions p_k of length 2 over all the chosen weights together."""
    weights = list(query_and_value(model, layers=1))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 0x5B5])))
    directions = rng.standard_normal((x.size, sum(w.numel() for w in weights)), dtype=np.float32).astype(float)
    directions *= 2 / np.linalg.norm(directions, axis=1, keepdims=True)
    change = torch.from_numpy(x).float() @ torch.from_numpy(directions).float()
    for weight, part in zip(weights, change.split([w.numel() for w in weights]), strict=True):
        weight += part.reshape(weight.shape)


def add_full(model, x):
    """θ = θ0 + 0.003 x."""
    for parameter in model.parameters():
        parameter += torch.from_numpy(0.003 * x[: parameter.numel()]).float().reshape(parameter.shape)
        x = x[parameter.numel() :]


def add_adapters(model, x, loaded):
    """ΔW = Σ_i x_i s_i B_i A_i, s = alpha / r or alpha / √r, alpha = 2 r."""
    modules = dict(model.named_modules())
    for i, adapter in enumerate(example("adapter-mix", loaded).adapters):
        tensors = load_file(Path(adapter.source) / "adapter_model.safetensors")
        for key in (key for key in tensors if key.endswith("lora_A.weight")):
            module = modules[key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            a, b = tensors[key], tensors[key.replace("lora_A", "lora_B")]
            change = x[i] * 2 * (len(a) ** 0.5 if i == 1 else 1) * (b @ a)
            module.weight += change.T if isinstance(module, Conv1D) else change


def add_models(model, x, loaded):
    """θ = θ0 + Σ_i x_i (θ_i − θ0)."""
    pretrained = {name: p.clone() for name, p in model.named_parameters()}
    for i, mixed in enumerate(example("model-mix", loaded).models):
        other = type(model).from_pretrained(mixed.source, dtype=torch.float32)
        for name, parameter in other.named_parameters():
            model.get_parameter(name).add_(x[i] * (parameter - pretrained[name]))


def add_together(model, x):
    """Cores of LoRA-XS (the first 4 · 9 numbers), and Gaussian directions for the same weights of the last layer."""
    add_lora_xs(model, x[:36])
    add_random(model, x[36:], seed=int(np.random.SeedSequence([5, 0x7063, 1]).generate_state(1, np.uint64)[0]))


SUBSPACES = {
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
    "full": (lp.subspaces.FullVector(scale=0.003), add_full),
}

CASES = [(name, kind) for name in ("tiny_gpt2", "tiny_bert") for kind in SUBSPACES] + [
    pytest.param("smollm2", kind, marks=pytest.mark.real) for kind in SUBSPACES if kind not in ("full", "model-mix")
]


def test_every_subspace_is_compared_with_the_reference():
    assert set(SUBSPACES) == set(lp.subspaces.SUBSPACES)


@pytest.mark.parametrize(("name", "kind"), CASES)
@torch.no_grad()
def test_serial_loss_equals_plain_transformers(name, kind, stock, request):
    loaded = request.getfixturevalue(name)
    subspace, add = SUBSPACES[kind]
    if callable(subspace):  # its description names files, made for the model
        subspace, add = subspace(loaded), functools.partial(add, loaded=loaded)
    problem = lp.Problem(loaded, task_for(loaded.kind), subspace, seed=5, evaluator="serial")
    model, tokenizer = stock(loaded)
    masked = loaded.kind == "masked"
    at_zero = reference_loss(model, tokenizer, masked)
    assert abs(problem(problem.x0) - at_zero) <= 1e-6
    x = np.random.default_rng(1).standard_normal(problem.dimension)
    changed = copy.deepcopy(model)
    add(changed, x)
    expected = reference_loss(changed, tokenizer, masked)
    assert abs(expected - at_zero) > 1e-3  # else there was nothing to compare
    assert abs(problem(x) - expected) <= 1e-6


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


SMALL = [lp.subspaces.LoRAXS(2, layers=2), lp.subspaces.RandomSubspace(5, layers=1), lp.subspaces.FullVector()]


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
