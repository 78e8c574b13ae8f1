"""Whether a point of a subspace is the same elsewhere: as a PEFT adapter, as a whole model of plain transformers."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_problem.evaluation.choice import TOLERANCE
from llm_problem.models.loading import LoadedModel, load_model
from llm_problem.models.quiet import quiet_transformers
from llm_problem.problem import Problem
from llm_problem.subspaces import Subspace
from llm_problem.tasks import Task
from llm_problem.tasks.batch import TokenBatch
from llm_problem.testing.promises import BrokenPromiseError, require


def check_exports(subspace: Subspace, loaded: LoadedModel, task: Task, seed: int, x: np.ndarray) -> None:
    """`save_adapter` and `save_model` at x (d,): each reloads with the same loss, or is refused with another way.

    The adapter is loaded where PEFT is installed.

    Raises:
        BrokenPromiseError: one of them does neither.
    """
    problem = Problem(loaded, task, subspace, seed=seed, evaluator="serial")
    expected = problem.metrics(x, "search")["loss"]
    batch = task.batch(loaded, "search", seed)  # without a prompt: an adapter brings its own
    with tempfile.TemporaryDirectory() as name:
        adapter, whole = Path(name) / "adapter", Path(name) / "model"
        if _saved("save_adapter", problem.save_adapter, x, adapter) and importlib.util.find_spec("peft"):
            found = task.scores(log_probs(_adapted(problem.model, adapter), batch), batch)["loss"]
            _require_same("an adapter from save_adapter has the same loss in PEFT", loaded, found, expected)
        if _saved("save_model", problem.save_model, x, whole):
            found = task.scores(log_probs(load_model(whole, keep=False).model, batch), batch)["loss"]
            _require_same("a model from save_model has the same loss in transformers", loaded, found, expected)


def _saved(what: str, save: Callable[[Any, Path], None], x: np.ndarray, directory: Path) -> bool:
    """Whether it was saved; a refusal must be a ValueError that names another way."""
    promise = f"{what} writes files, or raises a ValueError that names the way that works (save_…)"
    try:
        save(x, directory)
        return True
    except ValueError as error:
        require("save_" in str(error).replace(what, ""), promise, f"it says {error}")
        require(not directory.exists(), f"{what} leaves nothing behind when it refuses")
        return False
    except Exception as error:
        raise BrokenPromiseError(f"{promise}: it raised {type(error).__name__}: {error}") from error


def _adapted(model: Any, folder: Path) -> Any:
    import peft

    with quiet_transformers():
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder).eval()


def log_probs(model: Any, batch: TokenBatch) -> np.ndarray:
    """Log-probabilities (E,) of a batch's entries by a model's own forward, one sequence at a time.

    A prompt that the model puts before a sequence itself has logits too: those of the sequence are the last ones.
    """
    device = next(model.parameters()).device
    values = np.empty(batch.entries)
    for number, ids in enumerate(batch.sequences):
        mine = np.flatnonzero(batch.sequence == number)
        inputs = {"input_ids": torch.as_tensor(ids, device=device)[None]}
        if batch.sources:
            source = torch.as_tensor(batch.sources[batch.source[number]], device=device)[None]
            inputs = {"input_ids": source, "decoder_input_ids": inputs["input_ids"]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.inference_mode():
            logits = model(**inputs).logits[0, -len(ids) :].double()  # (t, V)
        values[mine] = logits.log_softmax(-1)[batch.position[mine], batch.token[mine]].cpu().numpy()
    return values


def _require_same(promise: str, loaded: LoadedModel, found: float, expected: float) -> None:
    limit = TOLERANCE[str(loaded.model.dtype).removeprefix("torch.")]
    require(abs(found - expected) <= limit, promise, f"{found:.6f} there, {expected:.6f} here")
