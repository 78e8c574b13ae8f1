"""What a problem can write for others to load: an adapter, a whole model, its basis."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from llm_problem.new_folder import require_new
from llm_problem.subspaces.stored import save_basis

if TYPE_CHECKING:
    from llm_problem.export import Point
    from llm_problem.problem import Problem


class Exporting:
    """The part of `Problem` that writes files; each appears whole or not at all, and nothing is overwritten."""

    def save_adapter(
        self, x: Any, directory: str | os.PathLike[str], *, notes: Mapping[str, Any] | None = None
    ) -> None:
        """Write x (d,) as a PEFT adapter into a new directory: `peft.PeftModel.from_pretrained` loads it.

        Which type it is follows from what x changes: LORA, VERA, IA3, LN_TUNING, PROMPT_TUNING or PREFIX_TUNING.

        Args:
            x: the point.
            directory: must not exist.
            notes: what README.md says of how the point was found, name → text, number or mapping of numbers (metrics
                on a split, say). The losses on the search split are in it anyway.

        Raises:
            ValueError: x of another shape or not finite, or changes that no adapter holds exactly, with what works.
            FileExistsError: the directory exists.
        """
        from llm_problem.export import adapter_of, model_card, write_adapter

        problem = cast("Problem", self)
        point = _point(problem, x)
        require_new(directory)
        adapter = adapter_of(point)
        base = str(point.loaded.source or problem.spec.model)
        write_adapter(adapter, point, directory, base=base, card=model_card(problem, x, adapter, notes))

    def save_model(self, x: Any, directory: str | os.PathLike[str], *, notes: Mapping[str, Any] | None = None) -> None:
        """Write the whole model at x (d,) into a new directory: plain transformers loads it.

        Raises:
            ValueError: x of another shape or not finite, or something else than weights moves, or the model is
                quantised; with what works.
            FileExistsError: the directory exists.
        """
        from llm_problem.export import model_card, require_mergeable, save_model

        problem = cast("Problem", self)
        require_mergeable(_point(problem, x))
        require_new(directory)
        card = model_card(problem, x, None, notes)
        save_model(problem.model, problem.tokenizer, problem.evaluator.changed(problem._one(x)), directory, card=card)

    def save_basis(self, path: str | os.PathLike[str]) -> None:
        """Write the subspace's frozen arrays into a new safetensors file, for `Problem(…, basis=path)` elsewhere.

        It is taken for the same subspace, seed and model only.

        Raises:
            FileExistsError: the file exists.
        """
        problem = cast("Problem", self)
        save_basis(problem.subspace, path, problem._spec.basis_identity(problem._loaded.identity))


def _point(problem: Problem, x: Any) -> Point:
    from llm_problem.export import Point

    subspace = problem.subspace
    with torch.no_grad():
        deltas = subspace.deltas(torch.from_numpy(problem._one(x)).to(problem.model.device))
    return Point(problem._loaded, tuple(deltas), tuple(subspace.prompt))
