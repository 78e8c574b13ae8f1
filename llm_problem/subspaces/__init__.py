"""Subspaces: linear maps from x to changes of a model's weights."""

from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.fastfood import Fastfood
from llm_problem.subspaces.full import FullVector
from llm_problem.subspaces.lora_xs import LoRAXS
from llm_problem.subspaces.norms_and_biases import NormsAndBiases
from llm_problem.subspaces.random_subspace import RandomSubspace
from llm_problem.subspaces.scales import Scales
from llm_problem.subspaces.sparse_projection import SparseProjection

SUBSPACES: dict[str, type[Subspace]] = {
    cls.kind: cls for cls in (FullVector, LoRAXS, RandomSubspace, SparseProjection, Fastfood, Scales, NormsAndBiases)
}

__all__ = [
    "SUBSPACES",
    "BoundSubspace",
    "Fastfood",
    "FullVector",
    "LoRAXS",
    "NormsAndBiases",
    "RandomSubspace",
    "Scales",
    "SparseProjection",
    "Subspace",
]
