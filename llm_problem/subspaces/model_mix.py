"""Mixing coefficients of models: θ = θ0 + Σ_i x_i (θ_i − θ0), the task vectors of Ilharco, Ribeiro, Wortsman,
Gururangan, Schmidt, Hajishirzi & Farhadi (2022, arXiv:2212.04089).

x = e_i is model i, x = −e_i the pretrained one with that vector taken away, x_i = 1/m for all m models their average.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import psutil
import torch

from llm_problem.models.loading import LoadedModel, lasting_name, load_model
from llm_problem.models.quantised import kinds
from llm_problem.subspaces.base import BoundSubspace, Subspace
from llm_problem.subspaces.deltas import Delta, DenseDelta


@dataclass(frozen=True)
class MixedModel:
    """A model by name, directory or hub id, and the sha256 of its weights: None until it was loaded."""

    source: str
    sha256: str | None = None

    @classmethod
    def of(cls, where: Any) -> MixedModel:
        """Describe a model, or what a JSON description holds of one; nothing is loaded.

        Raises:
            TypeError: neither of these.
            ValueError: a sha256 that is none.
        """
        if isinstance(where, cls):
            return where
        sha256 = None
        if isinstance(where, Mapping) and set(where) == {"source", "sha256"}:
            where, sha256 = where["source"], where["sha256"]
        if not isinstance(where, (str, os.PathLike)):
            raise TypeError(f"a model to mix must be a name, a directory or a hub id, got {type(where).__name__}")
        if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
            raise ValueError(f"the sha256 of {where} must be 64 hex digits, or None, got {sha256!r}")
        return cls(lasting_name(os.fspath(where)), sha256)

    def load(self) -> LoadedModel:
        """The model; errors as for `load_model`.

        Raises:
            ValueError: it has changed.
        """
        loaded = load_model(self.source, keep=False)
        if self.sha256 not in (None, loaded.identity):
            raise ValueError(f"{self.source} has changed: sha256 {loaded.identity}, expected {self.sha256}")
        return loaded


@dataclass(frozen=True)
class ModelMix(Subspace):
    """Search the coefficients of task vectors.

    Args:
        models: names, directories with safetensors or hub ids of models with the pretrained one's architecture; at
            least one. They are loaded when a problem is made, one after another. {"source": …, "sha256": …} refuses
            a model that is not the one of that hash, as a problem's `spec` has it.
        scale: by which x is multiplied. None is 1: a unit of a coefficient is the whole way to that model.

    The dimension is the number of models, x in their order. Their differences take as much memory as the tensors that
    differ. A problem's `spec` keeps the names and what was in the models; its fingerprint depends on the latter alone.
    """

    kind: ClassVar[str] = "model-mix"

    models: Sequence[Any] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        several = not isinstance(self.models, (str, os.PathLike, Mapping)) and isinstance(self.models, Iterable)
        mixed = tuple(MixedModel.of(model) for model in (self.models if several else (self.models,)))
        if not mixed:
            raise ValueError("models must be one or more models to mix, got none")
        _refuse_twins([model.source for model in mixed], [model.source for model in mixed])
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
        found: dict[str, list[tuple[int, torch.Tensor]]] = {}
        known: list[MixedModel] = []
        for i, described in enumerate(config.models):
            sha256, vector = _task_vector(model, described)
            known.append(MixedModel(described.source, sha256))
            _refuse_twins([m.sha256 for m in known], [m.source for m in known])
            for name, difference in vector.items():
                found.setdefault(name, []).append((i, difference))
        self.description = replace(config, models=tuple(known))
        pretrained = dict(model.model.named_parameters())
        self.parameters = tuple(name for name in pretrained if name in found)
        self.owners = [
            torch.tensor([i for i, _ in found[name]], device=pretrained[name].device) for name in self.parameters
        ]
        # (k, *shape) for the k models that differ there
        self.vectors = [torch.stack([vector for _, vector in found.pop(name)]).mul_(scale) for name in self.parameters]

    def deltas(self, X: torch.Tensor) -> list[Delta]:
        return [
            DenseDelta(name, (X[:, owner].to(vectors) @ vectors.flatten(1)).reshape(len(X), *vectors.shape[1:]))
            for name, owner, vectors in zip(self.parameters, self.owners, self.vectors, strict=True)
        ]

    def basis(self) -> Iterable[torch.Tensor]:
        return iter(self.vectors)


def _task_vector(pretrained: LoadedModel, described: MixedModel) -> tuple[str, dict[str, torch.Tensor]]:
    """sha256 of a model, and θ_i − θ0 by tensor where it is not zero; the model itself is let go of."""
    mixed, base = described.load(), pretrained.model
    _require_alike(base, mixed.model, described.source)
    _require_same_tokens(pretrained.tokenizer, mixed.tokenizer, described.source)
    theirs = {name: tensor.detach() for name, tensor in mixed.model.named_parameters()}
    own = {name: tensor.detach() for name, tensor in base.named_parameters()}
    differ = [name for name in own if not torch.equal(theirs[name].to(own[name]), own[name])]
    if not differ:
        raise ValueError(f"{described.source} is the pretrained model itself: there is nothing to mix")
    _require_memory(sum(own[name].nbytes for name in differ), described.source)
    vector = {name: theirs[name].to(own[name]) - own[name] for name in differ}
    if wild := [name for name, difference in vector.items() if not difference.isfinite().all()]:
        raise ValueError(  # 0 times it would not be 0
            f"{described.source} cannot be mixed: {', '.join(wild[:4])} less the pretrained one is not finite"
        )
    return mixed.identity, vector


def _refuse_twins(contents: Sequence[str | None], sources: Sequence[str]) -> None:
    if len(set(contents)) != len(contents):
        raise ValueError(f"a model is given twice: of {', '.join(sources)} some are the same")


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


def _require_same_tokens(own: Any, other: Any, source: str) -> None:
    """Refuse a model that was trained on other token ids; tokens that only one of the two has do not matter.

    Raises:
        ValueError: names a token that differs.
    """
    mine = {number: token for token, number in own.get_vocab().items()}
    for token, number in sorted(other.get_vocab().items(), key=lambda item: item[1]):
        if mine.get(number, token) != token:
            raise ValueError(
                f"{source} reads other tokens: {number} is {token!r} there and {mine[number]!r} in the pretrained model"
            )


def _require_memory(needed: int, source: str) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"the differences of {source} need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free: mix fewer "
            "models, or low-rank adapters of them"
        )
