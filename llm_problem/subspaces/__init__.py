"""Subspaces: linear maps from x to changes of a model's weights."""

from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.full import FullVector
from llm_problem.subspaces.lora_xs import LoRAXS
from llm_problem.subspaces.random_subspace import RandomSubspace

SUBSPACES: dict[str, type[Subspace]] = {cls.kind: cls for cls in (FullVector, LoRAXS, RandomSubspace)}

__all__ = ["SUBSPACES", "BoundSubspace", "FullVector", "LoRAXS", "RandomSubspace", "Subspace"]
