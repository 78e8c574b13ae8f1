"""The serial evaluator against a computation with plain transformers that shares no code with it."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

import llm_problem as lp
from llm_problem.evaluation import SerialEvaluator
from llm_problem.models.quiet import quiet_transformers

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


def last_layers(model, layers):
    return {
        "gpt2": lambda: model.transformer.h,
        "bert": lambda: model.bert.encoder.layer,
        "llama": lambda: model.model.layers,
    }[model.config.model_type]()[-layers:]


def query_and_value(model, layers):
    """Views (out, in) of the query and value weights of the last layers; writing to them changes the model."""
    kind = model.config.model_type
    for layer in last_layers(model, layers):
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


def add_lora(model, x):
    """ΔW = 0.2 B A with A ~ N(0, 1/in) drawn weight by weight and B searched."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 0x10FA])))
    for weight in query_and_value(model, layers=2):
        outputs, inputs = weight.shape
        a = 0.2 * rng.standard_normal((2, inputs)) / np.sqrt(inputs)
        b, x = x[: 2 * outputs].reshape(outputs, 2), x[2 * outputs :]
        weight += torch.from_numpy(b).float() @ torch.from_numpy(a).float()


def add_tiny_lora(model, x):
    """ΔW = U_r Σ_r (Σ_i x_i P_i) V_rᵀ with P ~ N(0, 1/r) of each weight's own."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 0x717A])))
    P = rng.standard_normal((len(x), 4, 2, 2)) / np.sqrt(2)
    for k, weight in enumerate(query_and_value(model, layers=2)):
        u, s, vt = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
        flip = np.sign(vt.sum(axis=1))
        core = torch.einsum("i,irs->rs", torch.from_numpy(x).float(), torch.from_numpy(P[:, k]).float())
        left, right = (
            torch.from_numpy((u * s * flip)[:, :2]).float(),
            torch.from_numpy((vt * flip[:, None])[:2]).float(),
        )
        weight += left @ core @ right


def add_vera(model, x):
    """ΔW = B diag(0.5 x) A with Kaiming-uniform A and B, as large as the largest stored weight, shared by all."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 0x7E3A])))
    weights = list(query_and_value(model, layers=2))
    width = weights[0].shape[1]
    fused = model.config.model_type == "gpt2"  # query and value are rows of one stored weight
    largest = 3 * width if fused else max(len(weight) for weight in weights)
    a = rng.uniform(-1, 1, (6, width)) * np.sqrt(6 / width)
    b = rng.uniform(-1, 1, (largest, 6)) * np.sqrt(6 / 6)
    for k, (weight, d) in enumerate(zip(weights, x.reshape(4, 6), strict=True)):
        rows = b[k % 2 * 2 * width :][: len(weight)] if fused else b[: len(weight)]
        left = torch.from_numpy(rows).float() * torch.from_numpy(0.5 * d).float()
        weight += left @ torch.from_numpy(a).float()


def add_singular_values(model, x):
    """W = U diag(σ (1 + 0.3 x)) Vᵀ."""
    for weight in query_and_value(model, layers=2):
        u, s, vt = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
        own, x = x[: len(s)], x[len(s) :]
        left = torch.from_numpy(0.3 * u * s).float() * torch.from_numpy(own).float()
        weight += left @ torch.from_numpy(vt).float()


def add_random(model, x):
    """Δθ = Σ_k x_k p_k with Gaussian directions p_k of length 2 over all the chosen weights together."""
    weights = list(query_and_value(model, layers=1))
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 0x5B5])))
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


def add_to_entries(weights, change):
    """Add one long change (D,) to weights that stand one after another."""
    for weight, part in zip(weights, np.split(change, np.cumsum([w.numel() for w in weights])[:-1]), strict=True):
        weight += torch.from_numpy(part).float().reshape(weight.shape)


def add_sparse(model, x):
    """θ_i = θ0_i ± 2 x_j/√n_j, j the group that a permutation dealt entry i out to."""
    weights = list(query_and_value(model, layers=1))
    size = sum(w.numel() for w in weights)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 0x5BA])))
    order, signs = rng.permutation(size), 2.0 * rng.integers(0, 2, size, dtype=np.uint8) - 1
    change = np.zeros(size)
    for j in range(x.size):
        group = order[j :: x.size]
        change[group] = 2 * x[j] * signs[group] / np.sqrt(len(group))
    add_to_entries(weights, change)


def add_fastfood(model, x):
    """Blocks V = S H G Π H B over each other, every matrix written out."""
    weights = list(query_and_value(model, layers=1))
    size, q = sum(w.numel() for w in weights), 16
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, 0x5BF])))
    H, padded, parts = scipy.linalg.hadamard(q), np.pad(x, (0, q - x.size)), []
    for _ in range(-(-size // q)):
        B = np.diag(2.0 * rng.integers(0, 2, q) - 1)
        permutation, g = np.eye(q)[rng.permutation(q)], rng.standard_normal(q)
        S = np.diag(np.sqrt(rng.chisquare(q, q)))
        V = S @ H @ np.diag(g) @ permutation @ H @ B / (np.linalg.norm(g) * np.sqrt(q))
        parts.append(V @ padded)
    add_to_entries(weights, 4 / np.sqrt(size) * np.concatenate(parts)[:size])


def add_scales(model, x):
    """Keys, values and the feed-forward's inner activations times 1 + 0.3 x, as the weights W + W ∘ 0.3 x."""

    def scale(*tensors, axis=0):
        nonlocal x
        count = tensors[0].shape[axis]
        by, x = 0.3 * x[:count], x[count:]
        for tensor in tensors:
            tensor += tensor * torch.from_numpy(by).float().view(-1, *[1] * (tensor.ndim - 1 - axis))

    for layer in last_layers(model, 2):
        if model.config.model_type == "gpt2":  # fused, and stored as (in, out)
            weights, biases = layer.attn.c_attn.weight.chunk(3, dim=1), layer.attn.c_attn.bias.chunk(3)
            for k in (1, 2):
                scale(weights[k].T, biases[k])
            scale(layer.mlp.c_proj.weight)
            continue
        bert = model.config.model_type == "bert"
        attention = layer.attention.self if bert else layer.self_attn
        for module in (attention.key, attention.value) if bert else (attention.k_proj, attention.v_proj):
            scale(*module.parameters())
        scale((layer.output.dense if bert else layer.mlp.down_proj).weight, axis=1)
    assert not x.size


def add_norms_and_biases(model, x):
    """Norms first, then the other biases, each by 0.2 of its root mean square times x."""
    named = [(name, p) for layer in last_layers(model, 2) for name, p in layer.named_parameters() if p.ndim == 1]
    norms = [p for name, p in named if "norm" in name.lower() or name.startswith("ln_")]
    biases = [p for name, p in named if not any(p is norm for norm in norms)]
    for parameter in norms + biases:
        step = 0.2 * parameter.double().square().mean().sqrt()
        parameter += (step * torch.from_numpy(x[: parameter.numel()])).float()
        x = x[parameter.numel() :]
    assert not x.size


SUBSPACES = {
    "lora": (lp.subspaces.LoRA(2, layers=2, scale=0.2), add_lora),
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
    pytest.param("smollm2", kind, marks=pytest.mark.real) for kind in SUBSPACES if kind != "full"
]


def test_every_subspace_is_compared_with_the_reference():
    prompts = {"prefix", "soft-prompt"}  # see test_prompts.py
    assert set(SUBSPACES) | prompts == set(lp.subspaces.SUBSPACES)


@pytest.mark.parametrize(("name", "kind"), CASES)
@torch.no_grad()
def test_serial_loss_equals_plain_transformers(name, kind, stock, request):
    loaded = request.getfixturevalue(name)
    subspace, add = SUBSPACES[kind]
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
    # Fastfood's transforms run in the model's single precision, the reference's in double.
    assert abs(problem(x) - expected) <= (5e-6 if kind == "fastfood" else 1e-6)


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
