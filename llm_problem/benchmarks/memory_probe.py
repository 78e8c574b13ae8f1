"""One contestant's memory, measured in a process of its own: `python -m llm_problem.benchmarks.memory_probe JSON`.

Reads {"contestant", "layers", "threads", "settings"} from its argument, prints the figures as one line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from llm_problem.benchmarks.contestants import DOCUMENT, EXPERT, OURS, POPULATION, one_by_one, ours
from llm_problem.benchmarks.document_loop import DocumentLoop, padded
from llm_problem.benchmarks.expert_loop import ExpertLoop, NotForExpertsError
from llm_problem.benchmarks.settings import Settings
from llm_problem.models.loading import load_model
from llm_problem.problem import Problem

PLAIN_PADDED, PLAIN_SINGLE = "plain inference, one padded batch", "plain inference, a sequence at a time"
EVALUATIONS = 3  # of which the highest peak counts


def probe(contestant: str, layers: int, settings: Settings, expert_batch: int) -> dict[str, Any]:
    """Megabytes beyond the loaded model.

    Returns:
        "first_peak": while the contestant is made and evaluates once; "held": kept between evaluations; "working":
        the peak of later evaluations above what is held; "peak": of both together; "how": the counter that was read;
        "card": what the problem's card says of memory, for ours. {"left_out": why} where it cannot be run.
    """
    loaded = load_model(settings.model)
    _touch(loaded.model)
    meter = PeakMeter()
    base = meter.now()
    meter.reset()
    # The others need the map and the loss only; the fast evaluator's memory would count as theirs.
    evaluator = "auto" if contestant in (OURS, POPULATION) else "serial"
    problem = settings.problem(settings.label_task(), layers, evaluator=evaluator)
    try:
        evaluate, width = contestant_of(contestant, problem, settings, expert_batch)
    except NotForExpertsError as error:
        return {"left_out": str(error)}
    rng = np.random.default_rng(0)
    evaluate(rng.standard_normal((width, problem.dimension)))
    first_peak = meter.peak() - base
    held = meter.now() - base
    meter.reset()
    for _ in range(EVALUATIONS):
        evaluate(rng.standard_normal((width, problem.dimension)))
    peak = meter.peak() - base
    card = problem.card().get("memory") if contestant in (OURS, POPULATION) else None
    return {
        **{"first_peak": first_peak, "held": held, "working": peak - held, "peak": peak},
        **{"model": base, "how": meter.how, "card": card},
    }


def contestant_of(
    name: str, problem: Problem, settings: Settings, expert_batch: int
) -> tuple[Callable[[np.ndarray], object], int]:
    """A function of X (width, d), and its width.

    Raises:
        NotForExpertsError: the expert's loop cannot be run here.
    """
    if name == DOCUMENT:
        return one_by_one(DocumentLoop(problem)), 1
    if name == EXPERT:
        return one_by_one(ExpertLoop(problem, expert_batch)), 1
    if name in (OURS, POPULATION):
        found = ours(problem, settings.population if name == POPULATION else None)
        return found.losses, found.width
    if name not in (PLAIN_PADDED, PLAIN_SINGLE):
        raise ValueError(f"no such contestant: {name!r}")
    sequences = problem.batch("search").sequences
    groups = [sequences] if name == PLAIN_PADDED else [(sequence,) for sequence in sequences]
    body = problem.model.base_model
    inputs = [padded(group) for group in groups]

    def plain(X: np.ndarray) -> None:
        with torch.inference_mode():
            for ids, mask in inputs:
                body(input_ids=ids, attention_mask=mask)

    if hasattr(problem.model.config, "use_cache"):
        problem.model.config.use_cache = False  # this process measures nothing else
    return plain, 1


class PeakMeter:
    """Resident megabytes of this process, now and at their highest since `reset`.

    Linux resets its high-water mark when asked; elsewhere, or where that is forbidden, the mark is of the process's
    whole life, which hides peaks below an earlier one.
    """

    def __init__(self) -> None:
        self.how = "VmHWM, reset" if self._resets() else "ru_maxrss since the process began"

    def now(self) -> float:
        """Without what is free but not returned to the system."""
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):  # glibc only
            ctypes.CDLL(None).malloc_trim(0)
        return psutil.Process().memory_info().rss / 2**20

    def reset(self) -> None:
        if self.how.startswith("VmHWM"):
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        if self.how.startswith("VmHWM"):
            return _high_water()
        # Kilobytes, but bytes on macOS.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    def _resets(self) -> bool:
        try:
            block = np.ones(2**23)  # 64 MB come and go
            before = _high_water()
            del block
            Path("/proc/self/clear_refs").write_text("5")
            return _high_water() < before - 32
        except (OSError, StopIteration):
            return False


def _high_water() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10


def _touch(model: Any) -> None:
    """Read all weights, which may only be mapped so far, and start the libraries, so that neither counts later."""
    with torch.inference_mode():
        for tensor in model.state_dict().values():
            tensor.sum()
        model(input_ids=torch.ones((1, 4), dtype=torch.int64))


def main() -> None:
    """Measure what the argument says."""
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    given = asked["settings"]
    for name in ("data", "text"):
        given[name] = None if given[name] is None else Path(given[name])
    settings = Settings(**{**given, "layers": tuple(given["layers"])})
    print(json.dumps(probe(asked["contestant"], asked["layers"], settings, asked["expert_batch"])))


if __name__ == "__main__":
    main()
