"""The section `memory`: peak memory of each contestant beyond the loaded model, each in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import torch

from llm_problem.benchmarks.contestants import DOCUMENT, EXPERT, OURS, POPULATION
from llm_problem.benchmarks.memory_probe import PLAIN_PADDED, PLAIN_SINGLE
from llm_problem.benchmarks.report import Report, Sheet
from llm_problem.benchmarks.settings import Settings
from llm_problem.benchmarks.timing import figure
from llm_problem.models.cache import say

EXPERT_BATCH = 4  # sequences in a batch of the expert's loop: small ones are its fastest, and need the least


def memory(settings: Settings) -> Report:
    """Memory in MB, and the working memory as a multiple of plain inference on the same padded batch."""
    sheet = Sheet(
        "Memory beyond the loaded model: MB",
        (
            "",
            "last\nlayers",
            "held between\nevaluations",
            "working,\nbeyond that",
            "peak of\nboth",
            "peak of\nthe first",
            "working\n× plain",
        ),
    )
    few, *rest = dict.fromkeys((settings.focus(), settings.layer_counts()[-1]))
    asked = [(name, few) for name in (PLAIN_PADDED, PLAIN_SINGLE)]
    asked += [(name, k) for k in (few, *rest) for name in (DOCUMENT, EXPERT, OURS, POPULATION)]
    rows: list[dict[str, Any]] = []
    for contestant, k in asked:
        row = {"contestant": contestant, "layers": k, **_measure(contestant, k, settings)}
        say(f"memory of {contestant}, last {k} layers, measured")
        rows.append(row)
        label = {OURS: "ours", POPULATION: f"ours, in {settings.population}s"}.get(contestant, contestant)
        shown = f"{label}'s loop" if contestant in (DOCUMENT, EXPERT) else label
        if "left_out" in row:
            sheet.notes.append(f"{shown} left out: {row['left_out']}")
            continue
        layers = "" if contestant in (PLAIN_PADDED, PLAIN_SINGLE) else str(k)
        times = row["working"] / rows[0]["working"] if rows[0]["working"] > 0 else float("nan")
        megabytes = [figure(row[name]) for name in ("held", "working", "peak", "first_peak")]
        sheet.rows.append((shown, layers, *megabytes, f"{times:.2f}"))
        if row["card"] is not None:
            sheet.notes.append(f"{label}, last {k}: the problem's card says {json.dumps(row['card'])}")
    sheet.notes += [
        f"resident memory of a fresh process ({rows[0]['how']}) above {figure(rows[0]['model'])} MB with the model "
        "loaded and tried",
        "plain inference: the body alone, no logits; × plain: working memory over that of the padded batch; "
        f"the expert's loop runs batches of {EXPERT_BATCH} sequences",
    ]
    return Report([sheet], {"rows": rows})


def _measure(contestant: str, layers: int, settings: Settings) -> dict[str, Any]:
    asked = {
        "contestant": contestant,
        "layers": layers,
        "threads": torch.get_num_threads(),
        "expert_batch": EXPERT_BATCH,
        "settings": dataclasses.asdict(settings),
    }
    command = [sys.executable, "-m", "llm_problem.benchmarks.memory_probe", json.dumps(asked, default=os.fspath)]
    # Blocks from 64 KiB on go back to the system when they are freed, so that what is resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of {contestant} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
