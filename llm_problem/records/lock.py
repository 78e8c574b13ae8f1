"""One writer for a record: a lock that its holder's death lets go of, and that says who holds it.

The lock is the kernel's (flock), on a file beside the record that also names its holder; what is left of it after a
crash holds nobody up.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from llm_problem.records.errors import RecordError, RecordInUse


class WriterLock:
    """Held from creation until `release`.

    Args:
        path: of the record; the lock is the file with ".lock" behind its name, and that of what a link leads to.

    Raises:
        RecordInUse: somebody else holds it; at once, and says which process on which host since when.
        RecordError: nothing may be written there.
    """

    def __init__(self, path: Path) -> None:
        self._record = path
        path = path.resolve()
        self.path = path.with_name(path.name + ".lock")
        while True:
            try:
                self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise RecordError(
                    f"{self._record} cannot be written ({error}): nothing was changed; give a path in a folder where "
                    "files may be made, or copy the record to one"
                ) from error
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _holder(self._handle)
                os.close(self._handle)
                raise RecordInUse(
                    f"{self._record} is being written by {holder}: wait for it, or stop it, or give another path"
                ) from None
            except BaseException:
                os.close(self._handle)
                raise
            if self._is_there():
                break
            os.close(self._handle)  # its holder has just removed it
        me = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        os.ftruncate(self._handle, 0)
        with contextlib.suppress(OSError):  # a full disk: then nobody is named
            os.pwrite(self._handle, json.dumps(me).encode(), 0)

    def release(self) -> None:
        """Let go, and remove the file; twice is once."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):
            if self._is_there():
                os.unlink(self.path)
        os.close(self._handle)
        self._handle = -1

    def _is_there(self) -> bool:
        """Whether the locked file is the one that has the name."""
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.path))
        except FileNotFoundError:
            return False


def _holder(handle: int) -> str:
    try:
        who: dict[str, Any] = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(who['process'])} on host {str(who['host'])[:255]!r} since {str(who['since'])[:32]}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
