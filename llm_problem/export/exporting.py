"""What a problem can write for others to load: an adapter, a whole model, its basis."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch

from llm_problem.models.quantised import kinds
from llm_problem.subspaces.stored import save_basis

if TYPE_CHECKING:
    from llm_problem.problem import Problem


class Exporting:
    """The part of `Problem` that writes files; each appears whole or not at all, and nothing is overwritten."""

    def save_adapter(self, x: Any, directory: str | os.PathLike[str]) -> None:
        """Write x (d,) as a PEFT adapter into a new directory: `peft.PeftModel.from_pretrained` loads it.

        Raises:
            ValueError: x of another shape or not finite, or a subspace whose changes are not low rank.
            FileExistsError: the directory exists.
        """
        from llm_problem.export import save_adapter

        problem = cast("Problem", self)
        deltas = problem.subspace.deltas(torch.from_numpy(problem._one(x)))
        task_type = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}.get(problem._loaded.kind, "FEATURE_EXTRACTION")
        base = str(problem._loaded.source or problem._spec.model)
        save_adapter(deltas, directory, base=base, task_type=task_type, card=_card(problem, x))

    def save_model(self, x: Any, directory: str | os.PathLike[str]) -> None:
        """Write the whole model at x (d,) into a new directory: plain transformers loads it; errors as above."""
        from llm_problem.export import save_model

        problem = cast("Problem", self)
        if problem.subspace.prompt:
            raise ValueError("a moved prompt cannot be merged into weights: keep x and the description")
        if found := kinds(problem.model):
            raise ValueError(f"a quantised model ({', '.join(found)}) cannot be merged: use save_adapter(x, directory)")
        changed = problem._evaluator.changed(problem._one(x))
        save_model(problem.model, problem.tokenizer, changed, directory, card=_card(problem, x))

    def save_basis(self, path: str | os.PathLike[str]) -> None:
        """Write the subspace's frozen arrays into a new safetensors file, for `Problem(…, basis=path)` elsewhere.

        It is taken for the same subspace, seed and model only.

        Raises:
            FileExistsError: the file exists.
        """
        problem = cast("Problem", self)
        save_basis(problem.subspace, path, problem._spec.basis_identity(problem._loaded.identity))


def _card(problem: Problem, x: Any) -> str:
    from llm_problem.export import model_card

    return model_card(problem.name, problem._spec, problem.fingerprint, problem.metrics(x, "search"))
