"""A point of any subspace as a whole model that plain transformers loads."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

from llm_problem.models.quiet import quiet_transformers
from llm_problem.new_folder import new_folder


class SharedTensorsError(ValueError):
    """A model that transformers cannot save."""


def save_model(
    model: Any, tokenizer: Any, changed: AbstractContextManager[None], directory: str | os.PathLike[str], *, card: str
) -> None:
    """Write the model with changed weights, its tokenizer and README.md into a new directory, as safetensors.

    Args:
        model: a transformers model.
        tokenizer: its tokenizer.
        changed: a context in which the model has the changed weights.
        directory: must not exist.
        card: contents of README.md.

    Raises:
        FileExistsError: the directory exists.
        SharedTensorsError: modules share a tensor, and the model's class does not say so.
    """
    with new_folder(directory) as folder, quiet_transformers():
        try:
            with changed:
                model.save_pretrained(folder)
        except RuntimeError as error:
            if "shared tensors" not in str(error):
                raise
            raise SharedTensorsError(
                "transformers saves no model whose modules share tensors that its class does not tie"
            ) from error
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
