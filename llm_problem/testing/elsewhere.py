"""Whether a subspace's JSON description is the same map in another process.

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
from llm_problem.testing.changes import Changes, changes_of, distance
from llm_problem.testing.promises import BrokenPromiseError, require

_PROMISE = "the JSON description gives the same changes in another process"


def check_elsewhere(
    subspace: Subspace, loaded: LoadedModel, task: Task, seed: int, x: np.ndarray, tolerance: float
) -> None:
    """The changes at x (d,) and the prompt, there and here; a model that was given as an object is saved for it.

    Raises:
        BrokenPromiseError: they differ by more than the tolerance (relative), or the other process fails.
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
        np.save(folder / "x.npy", x)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        require(done.returncode == 0, _PROMISE, done.stderr.strip()[-1000:])
        theirs, prompt = torch.load(folder / "found.pt", weights_only=True)
        ours, own_prompt = _found(spec, x)
    require((error := distance(theirs, ours)) <= tolerance, _PROMISE, f"off by {error:.2g}")
    require(prompt == own_prompt, "the JSON description gives the same prompt in another process", f"{prompt}")


def _with_parts(value: Any) -> Iterator[Subspace]:
    """A subspace and those inside its description."""
    if isinstance(value, Subspace):
        yield value
        for field in dataclasses.fields(value):
            yield from _with_parts(getattr(value, field.name))
    elif isinstance(value, tuple):
        for item in value:
            yield from _with_parts(item)


def _found(spec: ProblemSpec, x: np.ndarray) -> tuple[Changes, list[int]]:
    """The changes at x (d,), and the prompt."""
    loaded = load_model(spec.model)
    bound = spec.subspace.bind(loaded, spec.seed)
    return changes_of(bound, loaded.model, x[None])[0], list(bound.prompt)


def main(folder: Path) -> None:
    """Bind the description in a folder and leave what was found there."""
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    for name in settings["classes"]:
        module, _, path = name.partition(":")
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        SUBSPACES.setdefault(found.kind, found)
    spec = ProblemSpec.from_json((folder / "spec.json").read_text(encoding="utf-8"))
    torch.save(_found(spec, np.load(folder / "x.npy")), folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
