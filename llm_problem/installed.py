"""Which versions of other distributions are here."""

from __future__ import annotations

from importlib import metadata


def version(name: str) -> str | None:
    """The installed version of a distribution, None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
