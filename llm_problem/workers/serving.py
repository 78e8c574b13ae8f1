"""A worker's side: build the problem once, evaluate what is sent, until nobody sends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

from llm_problem.workers.memory import own_memory
from llm_problem.workers.starting import LIBRARIES


def serve(pipe: Any, recipe: bytes, threads: int, environment: dict[str, str]) -> None:
    """Build the problem in the driver's environment, of which a fork server may have another; then answer calls
    (number, method, X, options) by (number, "rows", rows) or (number, "error", exception)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that drives the run
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_driver()
    os.environ.clear()
    os.environ.update(environment)
    try:
        problem, facts = build(recipe, threads)
    except Exception as error:
        pipe.send((None, "error", sendable(error)))
        return
    pipe.send((None, "ready", facts))
    while True:
        try:
            number, method, X, options = pipe.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Any, str, Any]
        try:
            answer = (number, "rows", rows_of(getattr(problem, method), method, X, options))
            pickle.dumps(answer)
        except Exception as error:
            answer = (number, "error", sendable(error))
        with contextlib.suppress(BrokenPipeError):
            pipe.send(answer)


def build(recipe: bytes, threads: int) -> tuple[Any, dict[str, Any]]:
    """The problem of a recipe, run with so many threads; what it takes of memory, and the hash of its basis."""
    for name in LIBRARIES:  # read when a library is loaded
        os.environ[name] = str(threads)
    _pin(threads)
    problem = pickle.loads(recipe)
    _pin(threads)  # libraries that came with it
    basis = None
    if hasattr(problem, "spec") and hasattr(problem, "evaluate_all"):
        problem.evaluate_all(problem.x0[None])  # what is kept between evaluations is there, and counts
        basis = problem.subspace.basis_hash()
    return problem, {**own_memory(), "basis": basis, "pid": os.getpid()}


def _pin(threads: int) -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)  # of those that were loaded before the variables were set
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def rows_of(function: Callable[..., Any], method: str, X: Any, options: dict[str, Any]) -> list[Any]:
    """What a method says of each row of X (n, d): a number, or a tuple where it returns several arrays.

    Raises:
        ValueError: not a row for each point.
    """
    if method == "value_and_grad":
        return [function(x, **options) for x in X]
    found = function(X, **options)
    several = isinstance(found, tuple)
    for part in found if several else (found,):
        if not hasattr(part, "__len__") or len(part) != len(X):
            size = len(part) if hasattr(part, "__len__") else "no"
            raise ValueError(f"{method} must return a value for each of {len(X)} points, got {size}")
    return list(zip(*found, strict=True)) if several else list(found)


def end_with_driver() -> None:
    """Have this process end with the one that asked for it, and with the fork server between them, if they are killed.

    A thread looks for both; where the driver forks a process that lives on, the driver's own pipe does not tell.
    """
    driver, parent = multiprocessing.parent_process(), os.getppid()
    signs = [] if driver is None else [driver.sentinel]

    def watch() -> None:
        while os.getppid() == parent and not wait(signs, 1.0):
            """Nothing has happened."""
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def sendable(error: Exception) -> Exception:
    """The error, or one that another process can read."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
