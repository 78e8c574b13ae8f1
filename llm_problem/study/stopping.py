"""Ctrl-C and `kill`: a run ends with what it has, within seconds, and says how it is taken up again."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

PATIENCE = 3.0  # seconds for an evaluation to let go, and for what was found to be written down
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stopping:
    """What came of the signals.

    Attributes:
        code: the exit code that belongs to the signal that came, or None.
        advice: what is said where the process ends without waiting for it.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self.advice = ""
        self._left = threading.Event()

    def _interrupt(self, number: int, frame: Any) -> NoReturn:
        self.code = CODES[signal.Signals(number)]
        raise KeyboardInterrupt

    def _watch(self, pipe: int) -> None:
        """End the process where a signal came and the block is not left in time.

        Python runs no handler in a long call of C, and a library may swallow the KeyboardInterrupt.
        """
        while received := os.read(pipe, 1):
            if received[0] not in list(CODES):
                continue
            if not self._left.wait(PATIENCE):
                print("llm-problem: the evaluation in hand was abandoned", file=sys.stderr)
                if self.advice:
                    print(self.advice, file=sys.stderr)
                sys.stderr.flush()
                os._exit(CODES[signal.Signals(received[0])])
            return


@contextlib.contextmanager
def stopping() -> Iterator[Stopping]:
    """SIGINT and SIGTERM (of `kill`, or a batch system's time limit) raise KeyboardInterrupt in the block.

    Outside the main thread, which alone may set handlers, nothing is changed.
    """
    found = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = {number: signal.signal(number, found._interrupt) for number in CODES}
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=found._watch, args=(read,), daemon=True).start()
    try:
        yield found
    finally:
        found._left.set()
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.close(write)  # which ends the watch
