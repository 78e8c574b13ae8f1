"""Mixing coefficients of models: θ = θ0 + Σ_i x_i (θ_i − θ0), the task vectors of Ilharco, Ribeiro, Wortsman,
Gururangan, Schmidt, Hajishirzi & Farhadi (2022, arXiv:2212.04089).

x = e_i is model i, x = −e_i the pretrained one with that vector taken away, x_i = 1/m for all m models their average.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import psutil
import torch

from llm_problem.models.loading import LoadedModel, load_model
from llm_problem.models.quantised import kinds
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import Delta, DenseDelta


@dataclass(frozen=True)
class MixedModel:
    """A model by name, directory or hub id, and the sha256 of its weights: one that has changed since is refused."""

    source: str
    sha256: str

    @classmethod
    def of(cls, where: Any) -> MixedModel:
        """Describe a model, or what a JSON description holds of one; errors as for `load_model`."""
        if isinstance(where, cls):
            return where
        if isinstance(where, Mapping) and set(where) == {"source", "sha256"}:
            return cls(str(where["source"]), str(where["sha256"]))
        if not isinstance(where, (str, os.PathLike)):
            raise TypeError(f"a model to mix must be a name, a directory or a hub id, got {type(where).__name__}")
        loaded = load_model(where)
        return cls(loaded.name, loaded.identity)

    def load(self) -> LoadedModel:
        """The model.

        Raises:
            ValueError: it has changed.
        """
        with torch.random.fork_rng(devices=[]):  # some architectures start with random numbers
            loaded = load_model(self.source)
        if loaded.identity != self.sha256:
            raise ValueError(f"{self.source} has changed: sha256 {loaded.identity}, expected {self.sha256}")
        return loaded


@dataclass(frozen=True)
class ModelMix(Subspace):
    """Search the coefficients of task vectors.

    Args:
        models: names, directories with safetensors or hub ids of models with the pretrained one's architecture; at
            least one. They are loaded when the description is made, for what is in them, and again when it is bound.
        scale: by which x is multiplied. None is 1: a unit of a coefficient is the whole way to that model.

    The dimension is the number of models, x in their order. Their differences take as much memory as the tensors that
    differ. The description keeps names and what is in the models; a problem's fingerprint depends on the latter alone.
    """

    kind: ClassVar[str] = "model-mix"

    models: Sequence[Any] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        several = not isinstance(self.models, (str, os.PathLike)) and isinstance(self.models, Iterable)
        mixed = tuple(MixedModel.of(model) for model in (self.models if several else (self.models,)))
        if not mixed:
            raise ValueError("models must be one or more models to mix, got none")
        if len({model.sha256 for model in mixed}) != len(mixed):
            raise ValueError(f"a model is given twice: of {', '.join(m.source for m in mixed)} some are the same")
        self._set(models=mixed)

    @property
    def keeps_unit(self) -> bool:
        return True

    def bind(self, model: LoadedModel, seed: int) -> BoundModelMix:
        if found := kinds(model.model):
            raise ValueError(f"a quantised model ({', '.join(found)}) cannot be mixed tensor by tensor: mix adapters")
        return BoundModelMix(self, model)


class BoundModelMix(BoundSubspace):
    """For each tensor in which any model differs: those differences, and whose they are."""

    def __init__(self, config: ModelMix, model: LoadedModel) -> None:
        self.dimension = len(config.models)
        scale = config.scale or 1.0
        pretrained = dict(model.model.named_parameters())
        found: dict[str, list[tuple[int, torch.Tensor]]] = {}
        for i, described in enumerate(config.models):
            mixed = described.load()
            _require_alike(model.model, mixed.model, described.source)
            theirs = dict(mixed.model.named_parameters())
            differ = [name for name, own in pretrained.items() if not torch.equal(theirs[name].to(own), own)]
            if not differ:
                raise ValueError(f"{described.source} is the pretrained model itself: there is nothing to mix")
            _require_memory(sum(pretrained[name].nbytes for name in differ), described.source)
            for name in differ:
                own = pretrained[name]
                found.setdefault(name, []).append((i, scale * (theirs[name].to(own) - own)))
        self.parameters = tuple(name for name in pretrained if name in found)
        self.owners = [
            torch.tensor([i for i, _ in found[name]], device=pretrained[name].device) for name in self.parameters
        ]
        # (k, *shape) for the k models that differ there
        self.vectors = [torch.stack([vector for _, vector in found.pop(name)]) for name in self.parameters]

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return [
            DenseDelta(name, (X[:, owner].to(vectors) @ vectors.flatten(1)).reshape(len(X), *vectors.shape[1:]))
            for name, owner, vectors in zip(self.parameters, self.owners, self.vectors, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        return iter(self.vectors)


def _require_alike(base: Any, other: Any, source: str) -> None:
    """Refuse a model whose tensors are not the base's.

    Raises:
        ValueError: names what differs.
    """
    mine, theirs = base.config.model_type, other.config.model_type
    if mine != theirs:
        raise ValueError(f"{source} is of another architecture: {theirs}, not {mine}")
    own, found = dict(base.named_parameters()), dict(other.named_parameters())
    for what, names in (("lacks", set(own) - set(found)), ("also has", set(found) - set(own))):
        if names:
            raise ValueError(f"{source} is of another architecture: it {what} {', '.join(sorted(names)[:4])}")
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            raise ValueError(
                f"{source} is of another shape: {name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            )


def _require_memory(needed: int, source: str) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"the differences of {source} need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: mix fewer "
            "models, or low-rank adapters of them"
        )
