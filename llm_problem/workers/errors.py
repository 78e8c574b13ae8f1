"""What can become of an evaluation in another process, besides a value."""

from __future__ import annotations

from concurrent.futures import CancelledError


class GivenUp(Exception):
    """An evaluation has no value, and its point is to blame; `status` is what a record calls it."""

    status = "failed"


class TimedOut(GivenUp):
    """An evaluation took longer than it may, and was given up."""

    status = "timed out"


class Killed(GivenUp):
    """The process that evaluated is gone: killed for its memory, or by something else."""


class Abandoned(CancelledError):
    """What was asked for was interrupted, or the pool closed, before there was an outcome: no evaluation's fault."""


class NotBuilt(ValueError):
    """The problem cannot be built in a process of its own: no evaluation's fault."""


class TooManyWorkers(NotBuilt):
    """So many processes do not fit into memory; the message says how many do."""
