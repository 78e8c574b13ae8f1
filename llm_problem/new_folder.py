"""New folders and files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_new(path: str | os.PathLike[str], what: str = "directory") -> None:
    """Nothing is overwritten.

    Raises:
        FileExistsError: there is something at `path`, be it a link to nowhere.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already and is not overwritten: choose another {what}")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft beside `path` that takes its name when the block ends well, and is gone when it does not.

    Who may read the folder and its files is what the process's umask says, whatever the writers of the files think.

    Raises:
        FileExistsError: there is something at `path`, before the block or after it.
    """
    with _draft(Path(path), "directory") as draft:
        draft.mkdir()
        yield draft


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The same for one file, which the block writes."""
    with _draft(Path(path), "file") as draft:
        yield draft


@contextmanager
def _draft(final: Path, what: str) -> Iterator[Path]:
    require_new(final, what)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=".unfinished-", dir=final.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(
            error.errno, f"{reason}: {final} cannot be made, as {final.parent} is no folder that can be written to"
        ) from None
    with beside as scratch:
        parent = Path(scratch) / "whatever the umask allows"
        parent.mkdir()
        mode = stat.S_IMODE(parent.stat().st_mode)
        draft = parent / "draft"
        yield draft
        for inside in parent.rglob("*"):  # safetensors writes files that their owner alone can read
            inside.chmod(mode if inside.is_dir() else mode & 0o666)
        require_new(final, what)  # a rename would replace an empty folder
        os.rename(draft, final)
