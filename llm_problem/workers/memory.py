"""How many workers fit: from what the first one was seen to take."""

from __future__ import annotations

import sys
from pathlib import Path

from llm_problem.workers.errors import TooManyWorkers

_GROUP = Path("/sys/fs/cgroup")


def own_memory() -> dict[str, int]:
    """Bytes of this process: `rss` resident, `private` what no other process shares, `peak` the most that was private.

    Mapped weights are resident and not private: every process on the machine reads the same pages.
    """
    import resource

    import psutil

    process = psutil.Process()
    rss = process.memory_info().rss
    private = getattr(process.memory_full_info(), "uss", rss)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"rss": rss, "private": private, "peak": private + max(0, most - rss)}


def free_memory(group: Path = _GROUP) -> int:
    """Bytes that this machine, and the control group that a container runs in, has left."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (group / "memory.max").read_text(), int((group / "memory.current").read_text())
        lines = (group / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return free if limit.strip() == "max" else max(0, min(free, int(limit) - used + cached))
    except (OSError, ValueError, StopIteration):
        return free


def require_room(workers: int, taken: dict[str, int], free: int) -> None:
    """Refuse more workers than fit beside the first.

    Args:
        workers: wanted in all.
        taken: `own_memory` of the first.
        free: bytes that are left with the first one running.

    Raises:
        TooManyWorkers: they do not fit.
    """
    fit = 1 + free // max(1, taken["peak"])
    if workers > fit:
        raise TooManyWorkers(
            f"{workers} workers do not fit into memory: of this problem {fit} do. One takes up to "
            f"{taken['peak'] / 1e9:.2f} GB of its own, and {free / 1e9:.1f} GB is free beside the first"
        )
