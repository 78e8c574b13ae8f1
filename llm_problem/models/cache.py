"""The folder where fetched and converted models are kept, and how it is filled safely."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def cache_dir() -> Path:
    """`$LLM_PROBLEM_CACHE`, else `llm-problem` in the user's cache folder. Not created until it is needed."""
    chosen = os.environ.get("LLM_PROBLEM_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "llm-problem"


def say(message: str) -> None:
    """One progress line on standard error, so that nobody waits without knowing for what."""
    print(f"llm-problem: {message}", file=sys.stderr, flush=True)


def folder_made_once(name: str, build: Callable[[Path], None]) -> Path:
    """The cache folder `name`, built by the first process that needs it.

    Another process that asks meanwhile waits. The folder appears by a rename when it is complete, so that a
    process killed half-way leaves nothing that looks finished.

    Args:
        name: a plain folder name.
        build: writes the contents into the empty folder that it is given.
    """
    root = cache_dir()
    final = root / name
    if final.is_dir():
        return final
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(root / f"{name}.lock"))
    if not _try_acquire(lock):
        say(f"another process is preparing {name}; waiting for it")
        lock.acquire()
    try:
        if final.is_dir():
            return final
        for leftover in root.glob(f"{name}.part-*"):  # of a process that was killed: we hold the lock, so it is gone
            shutil.rmtree(leftover, ignore_errors=True)
        part = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=root))
        try:
            build(part)
            part.chmod(0o755)
            os.rename(part, final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    finally:
        lock.release()
    return final


def _try_acquire(lock: FileLock) -> bool:
    from filelock import Timeout

    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True
