"""How a worker's process comes into being: forked, where that is safe, from a process that has the libraries loaded.

Importing torch, transformers and what they bring takes ten times as long as building a small problem, and memory that
each worker would have of its own. Python's fork server imports them once; it has one thread and has multiplied nothing,
so that what is forked from it is whole (a copy of the driver itself, with its threads, may hang). It stays, idle, until
the driver ends. Elsewhere each worker is spawned and imports everything itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

LIBRARIES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")  # variables that they read when loaded
_NEEDED = ("llm_problem.", "transformers.models.")  # of the driver's modules, those that building may want
_lock = threading.Lock()


def context() -> Any:
    """The way to start processes: multiprocessing's "forkserver" or "spawn"."""
    if not forkable():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    with _lock, _one_thread_each():
        # All of this is without effect where the process has a fork server already.
        found.set_forkserver_preload(sorted(name for name in sys.modules if name.startswith(_NEEDED)))
        from multiprocessing import forkserver

        forkserver.ensure_running()
    return found


def forkable() -> bool:
    """Whether to fork: not without torch, which is what takes long; not with a GPU at work, which no fork can use; on
    macOS the system's own libraries do not survive a fork."""
    torch = sys.modules.get("torch")
    return sys.platform == "linux" and torch is not None and not torch.cuda.is_initialized()


@contextlib.contextmanager
def without_missing_script() -> Iterator[None]:
    """What is started meanwhile does not look for a script that is no file, as one that came by standard input."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if main is None or path is None or os.path.exists(path):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = path


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """What is started meanwhile has libraries that begin with one thread, which means that they start none."""
    before = {name: os.environ.get(name) for name in LIBRARIES}
    os.environ.update(dict.fromkeys(LIBRARIES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
