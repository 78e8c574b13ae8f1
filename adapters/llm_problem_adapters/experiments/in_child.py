"""Calls in a child process, so that one which hangs or brings its process down is a result like others."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import psutil

WAITING = 30  # times the limit: what does not compute at all is given up too
LOOK = 0.2  # seconds between two looks at the clock


class Child:
    """A process that is given one call after another; a new one is started where a call ended the last.

    Args:
        target: importable by name; called in the child with the arguments of `call`, and gives a string.
    """

    def __init__(self, target: Callable[..., str]) -> None:
        self._target = target
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None
        self._connection: Any = None

    def call(self, *arguments: Any, limit: float) -> str:
        """What the target gives: a text that it raises is "Type: message", one it does not get to says why.

        Args:
            *arguments: of the target.
            limit: seconds of the processor, because the clock would say how busy the machine is; a child that takes
                more is killed, and one that takes `WAITING` times as long by the clock. Starting it does not count.
        """
        if self._process is None:
            self._connection, other = self._context.Pipe()
            self._process = self._context.Process(target=_serve, args=(self._target, other), daemon=True)
            self._process.start()
            other.close()
            self._connection.recv()  # it is there
        began, computed = time.monotonic(), self._computed()
        self._connection.send(arguments)
        while not self._connection.poll(min(LOOK, limit)):
            if self._computed() - computed > limit or time.monotonic() - began > WAITING * limit:
                self.close()
                return f"TimeoutError: longer than {limit:g} s"
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            return f"ChildProcessError: it ended the process with code {code}"

    def _computed(self) -> float:
        """Seconds of the processor that the child has taken; 0 where it has ended, which its connection tells."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _serve(target: Callable[..., str], connection: Any) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        connection.send("")
        while True:
            arguments = connection.recv()
            try:
                found = target(*arguments)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            connection.send(found)
