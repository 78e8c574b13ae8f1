"""What a driver has left behind."""

from __future__ import annotations

import os

import psutil

KEPT = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own, which end with the driver


def processes() -> set[int]:
    """Processes below this one, zombies too, but for the two that Python keeps to make and tidy up after others."""
    this = psutil.Process()
    kept = {child.pid for child in this.children() if any(word in _words(child) for word in KEPT)}
    return {child.pid for child in this.children(recursive=True)} - kept


def shared_memory() -> set[str]:
    """Names of shared memory on this machine, where it can be told."""
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
