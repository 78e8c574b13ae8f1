"""Subspaces: linear maps from x to changes of a model's weights."""

from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.full import FullVector
from llm_problem.subspaces.lora import LoRA
from llm_problem.subspaces.lora_xs import LoRAXS
from llm_problem.subspaces.random_subspace import RandomSubspace
from llm_problem.subspaces.singular_values import SingularValues
from llm_problem.subspaces.tiny_lora import TinyLoRA
from llm_problem.subspaces.vera import VeRA

SUBSPACES: dict[str, type[Subspace]] = {
    cls.kind: cls
    for cls in (
        FullVector,
        LoRA,
        LoRAXS,
        RandomSubspace,
        SingularValues,
        TinyLoRA,
        VeRA,
    )
}

__all__ = [
    "SUBSPACES",
    "BoundSubspace",
    "FullVector",
    "LoRA",
    "LoRAXS",
    "RandomSubspace",
    "SingularValues",
    "Subspace",
    "TinyLoRA",
    "VeRA",
]
