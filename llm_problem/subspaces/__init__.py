"""Subspaces: linear maps from x to changes of a model's weights."""

from llm_problem.subspaces.adapter_mix import AdapterMix
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.full import FullVector
from llm_problem.subspaces.lora_xs import LoRAXS
from llm_problem.subspaces.model_mix import ModelMix
from llm_problem.subspaces.random_subspace import RandomSubspace
from llm_problem.subspaces.together import Together

SUBSPACES: dict[str, type[Subspace]] = {
    cls.kind: cls for cls in (AdapterMix, FullVector, LoRAXS, ModelMix, RandomSubspace, Together)
}

__all__ = [
    "SUBSPACES",
    "AdapterMix",
    "BoundSubspace",
    "FullVector",
    "LoRAXS",
    "ModelMix",
    "RandomSubspace",
    "Subspace",
    "Together",
]
