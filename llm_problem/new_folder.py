"""A new folder that appears whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_new(path: str | os.PathLike[str]) -> None:
    """Nothing is overwritten.

    Raises:
        FileExistsError: there is something at `path`, be it a link to nowhere.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already and is not overwritten: choose another directory")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` that takes its name when the block ends well, and is gone when it does not.

    Who may read the folder and its files is what the process's umask says, whatever the writers of the files think.

    Raises:
        FileExistsError: there is something at `path`, before the block or after it.
    """
    final = Path(path)
    require_new(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=final.parent) as scratch:
        draft = Path(scratch) / "folder"
        draft.mkdir()
        mode = stat.S_IMODE(draft.stat().st_mode)
        yield draft
        for inside in draft.rglob("*"):  # safetensors writes files that their owner alone can read
            inside.chmod(mode if inside.is_dir() else mode & 0o666)
        require_new(final)  # a rename would replace an empty folder
        os.rename(draft, final)
