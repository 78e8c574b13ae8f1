"""What can become of an evaluation in another process, besides a value."""

from __future__ import annotations


class TimedOut(Exception):
    """An evaluation took longer than it may, and was given up."""


class Killed(Exception):
    """The process that evaluated is gone: killed for its memory, or by something else."""


class NotBuilt(ValueError):
    """The problem cannot be built in a process of its own: no evaluation's fault."""


class TooManyWorkers(NotBuilt):
    """So many processes do not fit into memory; the message says how many do."""
