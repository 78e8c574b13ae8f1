"""Promises, and what is said of a broken one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class BrokenPromiseError(AssertionError):
    """What was checked does not keep a promise; the message names it."""


def require(kept: object, promise: str, found: str = "") -> None:
    """Raise `BrokenPromiseError` with the promise, and what was found instead, unless `kept`."""
    if not kept:
        raise BrokenPromiseError(promise + (f": {found}" if found else ""))


@contextmanager
def promised(promise: str, *allowed: type[Exception]) -> Iterator[None]:
    """Whatever the block raises is a broken promise, but for what is allowed."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (BrokenPromiseError, *allowed)):
            raise
        raise BrokenPromiseError(f"{promise}: it raised {type(error).__name__}: {error}") from error


@contextmanager
def refused(promise: str, *errors: type[Exception]) -> Iterator[None]:
    """The block must raise one of these errors."""
    try:
        yield
    except errors:
        return
    except Exception as error:
        raise BrokenPromiseError(f"{promise}: it raised {type(error).__name__}: {error}") from error
    raise BrokenPromiseError(f"{promise}: nothing was raised")
