"""The changes that a subspace's JSON description makes in another process.

Run as `python -m llm_problem.testing.elsewhere FOLDER`, this is that other process.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_problem.models.loading import LoadedModel, load_model
from llm_problem.models.quiet import quiet_transformers
from llm_problem.spec import ProblemSpec
from llm_problem.subspaces import SUBSPACES, Subspace
from llm_problem.tasks import Task
from llm_problem.testing.changes import Changes, changes_of
from llm_problem.testing.promises import BrokenPromiseError, require

_PROMISE = "the JSON description gives the same changes in another process"


def changes_elsewhere(
    subspace: Subspace, loaded: LoadedModel, task: Task, seed: int, X: np.ndarray
) -> tuple[Changes, Changes]:
    """Those of candidate X[0] there and here; a model that was given as an object is saved for it.

    Raises:
        BrokenPromiseError: the other process fails.
    """
    classes = {f"{type(part).__module__}:{type(part).__qualname__}" for part in _with_parts(subspace)}
    if mine := [name for name in classes if name.startswith("__main__:")]:
        raise BrokenPromiseError(
            f"{_PROMISE}: {', '.join(mine)} must stand in a module that can be imported there, or pass processes=False"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        where = str(loaded.source or loaded.name)
        if where.startswith("object:"):
            where = str(folder / "model")
            with quiet_transformers():
                loaded.model.save_pretrained(where)
                loaded.tokenizer.save_pretrained(where)
        spec = ProblemSpec(where, task, subspace, seed=seed)
        (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
        settings = {"classes": sorted(classes), "threads": torch.get_num_threads()}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        np.save(folder / "X.npy", X[:1])
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        require(done.returncode == 0, _PROMISE, done.stderr.strip()[-1000:])
        theirs = torch.load(folder / "changes.pt", weights_only=True)
        return theirs, _changes(spec, X[:1])


def _with_parts(value: Any) -> Iterator[Subspace]:
    """A subspace and those inside its description."""
    if isinstance(value, Subspace):
        yield value
        for field in dataclasses.fields(value):
            yield from _with_parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _with_parts(item)


def _changes(spec: ProblemSpec, X: np.ndarray) -> Changes:
    loaded = load_model(spec.model)
    return changes_of(spec.subspace.bind(loaded, spec.seed), loaded.model, X)[0]


def main(folder: Path) -> None:
    """Bind the description in a folder and leave its changes there."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    for name in settings["classes"]:
        module, _, path = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        SUBSPACES.setdefault(found.kind, found)
    spec = ProblemSpec.from_json((folder / "spec.json").read_text(encoding="utf-8"))
    torch.save(_changes(spec, np.load(folder / "X.npy")), folder / "changes.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
