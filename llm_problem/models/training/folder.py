"""How large a bundled model's folder is, and may be."""

from pathlib import Path

MOST_BYTES = 4_000_000
"""What a bundled model folder may hold, in bytes."""


def folder_bytes(folder: Path) -> int:
    """Total size of the files below `folder`, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
