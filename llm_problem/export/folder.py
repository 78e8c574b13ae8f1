"""A new folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_new(path: str | os.PathLike[str]) -> None:
    """Nothing is overwritten.

    Raises:
        FileExistsError: `path` exists already.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already and is not overwritten: choose another directory")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft folder beside `path` that takes its name when the block ends well.

    Raises:
        FileExistsError: `path` exists already; nothing is overwritten.
    """
    final = Path(path)
    require_new(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield draft
        draft.chmod(0o755)
        os.rename(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
