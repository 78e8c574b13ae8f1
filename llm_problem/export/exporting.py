"""What a problem can write for others to load: an adapter, a whole model, its basis."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from llm_problem.new_folder import require_new
from llm_problem.subspaces.stored import save_basis

if TYPE_CHECKING:
    from llm_problem.export import HeldOut, Point
    from llm_problem.problem import Problem


class Exporting:
    """The part of `Problem` that writes files; each appears whole or not at all, and nothing is overwritten."""

    def save_adapter(
        self,
        x: Any,
        directory: str | os.PathLike[str],
        *,
        notes: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        """Write x (d,) as a PEFT adapter into a new directory: `peft.PeftModel.from_pretrained` loads it.

        Which type it is follows from what x changes: LORA, VERA, IA3, LN_TUNING, PROMPT_TUNING or PREFIX_TUNING.

        Args:
            x: the point.
            directory: must not exist.
            notes: what README.md says of how the point was found, name → text, number or mapping of them.
            held_out: metrics on other splits for README.md, split → those at x = 0 and those at x, such as
                `{"test": (problem.metrics(problem.x0, "test"), problem.metrics(x, "test"))}`. Those on the search
                split are in it anyway; no other split is read here.

        Raises:
            ValueError: x of another shape, x or what it changes not finite, or changes that no adapter holds exactly,
                with what works.
            TypeError: notes or held-out metrics of another form.
            FileExistsError: the directory exists.
        """
        from llm_problem.export import adapter_of, model_card, write_adapter

        problem = cast("Problem", self)
        point = _point(problem, x)
        require_new(directory)
        adapter = adapter_of(point)
        base = str(point.loaded.source or problem.spec.model)
        card = model_card(problem, x, adapter, notes, held_out)
        write_adapter(adapter, point, directory, base=base, card=card)

    def save_model(
        self,
        x: Any,
        directory: str | os.PathLike[str],
        *,
        notes: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        """Write the whole model at x (d,) into a new directory: plain transformers loads it.

        Arguments are as for `save_adapter`.

        Raises:
            ValueError: x of another shape, x or what it changes not finite, or something else than weights moves, or
                the model is quantised or shares tensors in a way that transformers does not save; with what works.
            TypeError: notes or held-out metrics of another form.
            FileExistsError: the directory exists.
        """
        from llm_problem.export import (
            SharedTensorsError,
            instead_of_a_model,
            model_card,
            require_mergeable,
            save_model,
        )

        problem = cast("Problem", self)
        point = _point(problem, x)
        require_mergeable(point)
        require_new(directory)
        card = model_card(problem, x, None, notes, held_out)
        changed = problem.evaluator.changed(problem._one(x))
        try:
            save_model(problem.model, problem.tokenizer, changed, directory, card=card)
        except SharedTensorsError as error:
            raise ValueError(f"{error}: {instead_of_a_model(point)}") from error

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

    subspace, point = problem.subspace, problem._one(x)
    with torch.no_grad():
        deltas = subspace.deltas(torch.from_numpy(point).to(problem.model.device))
        parts = [part for delta in deltas for part in vars(delta).values() if isinstance(part, torch.Tensor)]
    if not all(part.isfinite().all() for part in parts):
        raise ValueError(
            f"x makes changes that are not finite in {str(problem.model.dtype).removeprefix('torch.')}: its largest "
            f"number is {np.abs(point).max():.3g}, and bounds of ±5 were meant"
        )
    return Point(problem._loaded, tuple(deltas), tuple(subspace.prompt))
