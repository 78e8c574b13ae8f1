"""`llm-problem doctor`: what this installation is, and whether it computes what it should."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHECKED = ("tiny-gpt2-prose-lora-xs-d32-v1", "tiny-bert-prose-lora-xs-d32-v1")
AGREES = 1e-5  # nats, of the fast evaluator and the reference


@dataclass(frozen=True)
class Check:
    """One thing that was tried: what, whether it holds, what was found."""

    name: str
    holds: bool
    found: str


def facts() -> dict[str, Any]:
    """Versions, processor, threads, the library of matrix products, caches: plain JSON values."""
    import psutil
    import torch

    from llm_problem.benchmarks.machine import machine
    from llm_problem.evaluation.gemm import onednn_works
    from llm_problem.installed import version
    from llm_problem.models.cache import cache_dir
    from llm_problem.study.runner import LIBRARIES

    return {
        **machine(),
        "interop threads": torch.get_num_interop_threads(),
        "thread variables": {n: os.environ[n] for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if n in os.environ},
        "prepacked oneDNN products": "work" if onednn_works(torch.float32) else "do not work here: the default is used",
        "memory free (GB)": round(psutil.virtual_memory().available / 1e9, 1),
        "cache": f"{cache_dir()} ({_size(cache_dir()) / 1e6:.0f} MB)",
        "hub": "offline" if os.environ.get("HF_HUB_OFFLINE") else "asked where a model or data set is not in its cache",
        "versions": {name: version(name) for name in LIBRARIES},
    }


def checks() -> Iterator[Check]:
    """A short self-check on the bundled models; what it raises is a check that does not hold."""
    for name in CHECKED:
        yield _tried(f"{name}: the fast evaluator agrees with the reference", lambda name=name: _agrees(name))  # type: ignore[misc]
        yield _tried(f"{name}: a population has the losses of its members", lambda name=name: _members(name))  # type: ignore[misc]
    yield _tried("a record comes back as it was written", _record)


def _tried(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    started = time.perf_counter()
    try:
        holds, found = check()
    except Exception as error:
        holds, found = False, f"{type(error).__name__}: {error}"
    return Check(name, holds, f"{found} ({time.perf_counter() - started:.1f} s)")


def _points(dimension: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, dimension))


def _agrees(name: str) -> tuple[bool, str]:
    import dataclasses

    import llm_problem as lp

    problem = lp.make(name)
    reference = lp.Problem.from_spec(dataclasses.replace(problem.spec, evaluator="serial"))
    X = _points(problem.dimension)
    difference = float(np.abs(problem.evaluate(X) - reference.evaluate(X)).max())
    return difference <= AGREES, f"to {difference:.1e} nats"


def _members(name: str) -> tuple[bool, str]:
    import llm_problem as lp

    problem = lp.make(name)
    X = _points(problem.dimension)
    together, alone = problem.evaluate(X), np.array([problem(x) for x in X])
    return together.tobytes() == alone.tobytes(), "to the bit" if together.tobytes() == alone.tobytes() else (
        f"off by {np.abs(together - alone).max():.1e}"
    )


def _record() -> tuple[bool, str]:
    from llm_problem.records import Row, RunRecord
    from llm_problem.records.rows import digest

    x = _points(3)[0]
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder) / "check.sqlite", time.perf_counter()
        with RunRecord.create(path, {"dimension": 3, "constraints": 0}) as record:
            for _ in range(20):
                record.append([Row(0, 0, "search", "ok", 1 / 3, 0.0, x, digest(x))])
            took = (time.perf_counter() - started) / 20
        with RunRecord.read(path) as record:
            same = all(np.array_equal(row.x, x) and row.loss == 1 / 3 for row in record.rows())  # type: ignore[arg-type]
    return same, f"{1e3 * took:.1f} ms for a batch to be on the disk"


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
