"""What each subspace does to a model, written out with numpy and plain transformers: x → the model with x added."""

from pathlib import Path

import numpy as np
import scipy.linalg
import torch
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

from tests.llm_problem.subspace_examples import example


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
