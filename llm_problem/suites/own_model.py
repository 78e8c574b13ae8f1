"""The suite of a model of one's own: the same tasks and subspaces by template."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from llm_problem.models.loading import lasting_name, require_name
from llm_problem.spec import ProblemSpec
from llm_problem.subspaces import Fastfood, LoRAXS, RandomSubspace, SoftPrompt, Subspace, TinyLoRA
from llm_problem.suites import named
from llm_problem.suites.suite import Entry, Suite
from llm_problem.tasks import Task

# What any causal model with projections q and v can be asked; dimensions that follow from no model's shapes.
TASKS: dict[str, Callable[[], Task]] = {
    "sentiment": lambda: named.sentiment(32),
    "prose": lambda: named.prose(8),
    "agreement": lambda: named.agreement(48),
    "continuation": lambda: named.continuation(8),
}
SUBSPACES: dict[str, Subspace] = {
    "tiny-lora-d13": TinyLoRA(13, rank=4, layers=1),
    "lora-xs-d32": LoRAXS(4, layers=1),
    "random-d64": RandomSubspace(64, layers=1),
    "lora-xs-d128": LoRAXS(8, layers=1),
    "fastfood-d256": Fastfood(256, layers=1),
    "soft-prompt-d32": SoftPrompt("Read this:", 32),
}


def own_model(model: str, instances: int = 1) -> Suite:
    """Twenty-four problems on a causal model: 4 tasks by 6 subspaces, of its last layer but for the soft prompt.

    Their units are measured when they are made, and there are no cards: a study takes its targets from its own runs.

    Args:
        model: a name, a directory with safetensors, or a hub id; nothing is loaded yet.
        instances: how many of each.

    Raises:
        TypeError: not a string or path.
        ValueError: no name, directory or hub id; no count of instances.
    """
    if not isinstance(model, (str, os.PathLike)):
        raise TypeError(f"model must be a name, a directory or a hub id, got {type(model).__name__}")
    if isinstance(instances, bool) or not isinstance(instances, int) or instances < 1:
        raise ValueError(f"instances must be an integer of at least 1, got {instances!r}")
    source = lasting_name(os.fspath(model))
    require_name(source)
    slug = re.sub(r"[^a-z0-9.]+", "-", os.path.basename(source.rstrip("/")).lower()).strip("-.") or "model"
    entries = []
    for task, make in TASKS.items():
        for subspace, description in SUBSPACES.items():
            dimension = int(subspace.rpartition("-d")[2])
            for k in range(instances):
                spec = ProblemSpec(
                    source, make(), description, seed=k, id=f"own/{slug}-{task}-{subspace}-v1", instance=k
                )
                entries.append(Entry(spec, task, dimension))
    return Suite("own", tuple(entries))
