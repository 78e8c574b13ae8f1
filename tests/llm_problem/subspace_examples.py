"""One description of every registered kind of subspace, which all tests share."""

import copy
import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from llm_problem.models.quiet import quiet_transformers
from llm_problem.models.targets import find_targets, module_target
from llm_problem.subspaces import (
    AdapterMix,
    Fastfood,
    FullVector,
    LoRA,
    LoRAXS,
    ModelMix,
    NormsAndBiases,
    Prefix,
    RandomSubspace,
    Scales,
    SingularValues,
    SoftPrompt,
    SparseProjection,
    TinyLoRA,
    Together,
    VeRA,
)

_files = tempfile.TemporaryDirectory(prefix="subspace-examples-")


def write_adapter(folder, factors, *, alpha=None, **settings):
    """A LoRA as PEFT stores it: module → (B (out, r), A (r, in)), all of one rank."""
    rank = next(iter(factors.values()))[1].shape[0]
    folder.mkdir(parents=True)
    tensors = {}
    for module, (b, a) in factors.items():
        tensors[f"base_model.model.{module}.lora_B.weight"] = b.contiguous()
        tensors[f"base_model.model.{module}.lora_A.weight"] = a.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank if alpha is None else alpha, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def draw_factors(model, modules, rank, rng, size=0.03):
    """Module path → random B and A that fit the model's weights, each change of a set share of its weight."""
    factors = {}
    for module in modules:
        out, inside = module_target(model, module).shape
        b, a = rng.standard_normal((out, rank)), size * rng.standard_normal((rank, inside)) / np.sqrt(inside * rank)
        factors[module] = torch.tensor(b, dtype=torch.float32), torch.tensor(a, dtype=torch.float32)
    return factors


def modules_of(loaded, names):
    """Paths of the modules that hold the named projections of the last two layers."""
    return list(dict.fromkeys(t.parameter.removesuffix(".weight") for t in find_targets(loaded.model, names, 2)))


@functools.cache
def mixed_adapters(loaded):
    """Adapters of two ranks, on modules that only partly agree."""
    rng, folder = np.random.default_rng(8), Path(tempfile.mkdtemp(dir=_files.name))
    chosen = [("q_proj", "v_proj", "down_proj"), ("q_proj",), ("o_proj", "down_proj")]
    for i, names in enumerate(chosen):
        factors = draw_factors(loaded.model, modules_of(loaded, names), 2 + i, rng)
        write_adapter(folder / str(i), factors, use_rslora=i == 1)
    return AdapterMix(tuple(folder / str(i) for i in range(len(chosen))))


@functools.cache
def mixed_models(loaded):
    """Two models that differ from the loaded one in some tensors, not in the same ones."""
    folder = Path(tempfile.mkdtemp(dir=_files.name))
    rng = np.random.default_rng(9)
    for i, names in enumerate((("q_proj", "down_proj"), ("o_proj", "down_proj"))):
        model = copy.deepcopy(loaded.model)
        parameters = dict(model.named_parameters())
        for module in modules_of(loaded, names):
            weight = parameters[f"{module}.weight"]
            weight += 0.02 * torch.tensor(rng.standard_normal(weight.shape)).float().to(weight)
        with quiet_transformers():
            model.save_pretrained(folder / str(i))
            loaded.tokenizer.save_pretrained(folder / str(i))
    return ModelMix((folder / "0", folder / "1"))


def norms_and_biases(loaded):
    return NormsAndBiases(layers=2, final_norm=loaded.model.config.model_type != "marian")  # it has none


EXAMPLES = {
    "adapter-mix": mixed_adapters,  # a function of the loaded model, where the description names files made for it
    "full": FullVector(),
    "fastfood": Fastfood(19, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "lora": LoRA(2, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "norms-and-biases": norms_and_biases,
    "prefix": Prefix("Say it: ", 7, layers=2),
    "scales": Scales(layers=2),
    "singular-values": SingularValues(layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "soft-prompt": SoftPrompt("Say it: ", 7),
    "sparse-projection": SparseProjection(19, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "tiny-lora": TinyLoRA(9, rank=2, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "vera": VeRA(4, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "lora-xs": LoRAXS(2, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "model-mix": mixed_models,
    "random": RandomSubspace(7, layers=2, modules=("q_proj", "v_proj", "down_proj")),
    "together": Together((LoRAXS(2, layers=2), RandomSubspace(3, layers=1, modules=("q_proj", "o_proj")))),
}
RANDOM = {
    "fastfood",
    "lora",
    "prefix",
    "random",
    "soft-prompt",
    "sparse-projection",
    "tiny-lora",
    "together",
    "vera",
}  # whose basis is drawn


def example(kind, loaded):
    """The description of a kind, for this model."""
    made = EXAMPLES[kind]
    return made(loaded) if callable(made) else made
