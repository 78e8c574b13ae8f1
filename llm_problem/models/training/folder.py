"""Writing a model folder, complete or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_BYTES = 4_000_000
"""What a bundled model folder may hold, in bytes."""


def folder_bytes(folder: Path) -> int:
    """Total size of the files below `folder`, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def refuse_existing(target: Path) -> None:
    """Raise `FileExistsError` if there is anything at `target`."""
    if target.exists():
        raise FileExistsError(f"{target} exists already; give the name of a folder to be made")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target`, renamed to it at the end; removed if the block raises.

    Raises `FileExistsError` if there is anything at `target`, before the block and after it.
    """
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        draft.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        yield draft
        for path in draft.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # some writers make files that only their owner can read
        refuse_existing(target)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
