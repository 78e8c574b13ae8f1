"""Subspaces: linear maps from x to changes of a model's weights, or of what a prompt looks like to it."""

from llm_problem.subspaces.adapter_mix import AdapterMix
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.fastfood import Fastfood
from llm_problem.subspaces.full import FullVector
from llm_problem.subspaces.lora import LoRA
from llm_problem.subspaces.lora_xs import LoRAXS
from llm_problem.subspaces.model_mix import ModelMix
from llm_problem.subspaces.norms_and_biases import NormsAndBiases
from llm_problem.subspaces.prefix import Prefix
from llm_problem.subspaces.random_subspace import RandomSubspace
from llm_problem.subspaces.scales import Scales
from llm_problem.subspaces.singular_values import SingularValues
from llm_problem.subspaces.soft_prompt import SoftPrompt
from llm_problem.subspaces.sparse_projection import SparseProjection
from llm_problem.subspaces.tiny_lora import TinyLoRA
from llm_problem.subspaces.together import Together
from llm_problem.subspaces.vera import VeRA

SUBSPACES: dict[str, type[Subspace]] = {
    cls.kind: cls
    for cls in (
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
        Together,
        TinyLoRA,
        VeRA,
    )
}

__all__ = [
    "SUBSPACES",
    "AdapterMix",
    "BoundSubspace",
    "Fastfood",
    "FullVector",
    "LoRA",
    "LoRAXS",
    "ModelMix",
    "NormsAndBiases",
    "Prefix",
    "RandomSubspace",
    "Scales",
    "SingularValues",
    "SoftPrompt",
    "SparseProjection",
    "Subspace",
    "TinyLoRA",
    "Together",
    "VeRA",
]
