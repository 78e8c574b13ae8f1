"""Bases in files: a singular value decomposition is not the same on every machine, a file is.

A file holds the tensors that `BoundSubspace.basis` yields, in its order, as safetensors: "basis.0", "basis.1", …, with
their hash and what they belong to as its metadata.
"""

from __future__ import annotations

import os

import torch

from llm_problem.new_folder import new_file, require_new
from llm_problem.subspaces.base import BoundSubspace, hash_tensors

_FORMAT = "llm-problem basis 1"


def save_basis(bound: BoundSubspace, path: str | os.PathLike[str], belongs_to: str = "") -> None:
    """Write the basis into a new file, whole or not at all.

    Args:
        bound: whose basis.
        path: must not exist.
        belongs_to: what `load_basis` is to be asked for, such as a hash of the subspace's description.

    Raises:
        FileExistsError: the file exists.
    """
    from safetensors.torch import save_file

    require_new(path, "file")  # before a hash is made for nothing
    tensors = {f"basis.{k}": _alone(t) for k, t in enumerate(bound.basis())}
    metadata = {"format": _FORMAT, "sha256": bound.basis_hash(), "belongs_to": belongs_to}
    with new_file(path) as draft:
        save_file(tensors, draft, metadata=metadata)


def load_basis(bound: BoundSubspace, path: str | os.PathLike[str], belongs_to: str | None = None) -> None:
    """Put the basis in a file in place of the bound subspace's own, in its very tensors.

    Whatever was made from them before is not changed: load before an evaluator is made.

    Args:
        bound: whose basis.
        path: a file of `save_basis`.
        belongs_to: what was given to it; None does not ask.

    Raises:
        ValueError: no such file, another kind of file, one that belongs to something else, another number of tensors,
            another shape or dtype, contents that are not those that were saved. Nothing is changed then.
    """
    from safetensors import SafetensorError, safe_open

    own = list(bound.basis())
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"{path} is no basis that save_basis wrote")
            if belongs_to is not None and metadata.get("belongs_to") != belongs_to:
                raise ValueError(f"the basis in {path} is that of another subspace, seed or model")
            names = [f"basis.{k}" for k in range(len(own))]
            if sorted(file.keys()) != sorted(names):
                raise ValueError(f"{path} holds {len(file.keys())} tensors, the subspace has {len(own)}")
            stored = [file.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read a basis from {path}: {error}") from None
    for k, (mine, theirs) in enumerate(zip(own, stored, strict=True)):
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            raise ValueError(
                f"tensor {k} in {path} is {_form(theirs)}, the subspace's is {_form(mine)}: it was stored for another "
                "subspace or another model"
            )
    if hash_tensors(stored) != metadata.get("sha256"):
        raise ValueError(f"the basis in {path} is damaged: its sha256 is not the one that was stored with it")
    with torch.no_grad():
        for mine, theirs in zip(own, stored, strict=True):
            if not torch.equal(mine.cpu(), theirs):  # what is the same already is not written to
                mine.copy_(theirs)


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as safetensors takes it: contiguous, and sharing memory with no other."""
    plain = tensor.detach().cpu().contiguous()
    return plain if plain.untyped_storage().nbytes() == plain.nbytes else plain.clone()


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
