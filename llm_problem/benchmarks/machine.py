"""The machine that the figures are of."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from llm_problem.installed import version

# What decides how fast matrix products are.
FLAGS = ("fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16", "asimd", "sve")


def machine() -> dict[str, Any]:
    """Processor, libraries and threads, and how busy the machine was when asked."""
    processor, flags = _processor()
    return {
        "processor": processor,
        "flags": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gemm": gemm_name(),
        "transformers": version("transformers"),
        "peft": version("peft"),
    }


def heading(facts: dict[str, Any]) -> str:
    """Those facts in two lines."""
    load = "" if facts["load"] is None else f", load {facts['load']:.2f} at the start"
    return (
        f"{facts['processor']} ({' '.join(facts['flags']) or 'flags unknown'}), {facts['cores']} cores, "
        f"{facts['threads']} threads{load}\n"
        f"Python {facts['python']}, torch {facts['torch']} with {facts['gemm']}, transformers {facts['transformers']}, "
        f"peft {facts['peft'] or 'absent'}"
    )


def gemm_name() -> str:
    """The library behind torch's own matrix products."""
    if torch.backends.mkl.is_available():
        return "MKL"
    built = torch.__config__.show()
    return next((name for name in ("OpenBLAS", "Accelerate", "BLIS", "Eigen") if name.lower() in built.lower()), "BLAS")


def _processor() -> tuple[str, set[str]]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n\n", 1)[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags") or facts.get("Features") or ""
    return facts.get("model name") or platform.machine(), set(flags.split())
