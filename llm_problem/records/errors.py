"""What can be wrong with a record: each says which file, and what to do."""

from __future__ import annotations


class RecordError(RuntimeError):
    """A record cannot be used as it was asked for."""


class DamagedRecord(RecordError):
    """What is in the file is not what was written into it; the file is left as it is."""


class RecordInUse(RecordError):
    """Another process writes to it."""


class RecordFull(RecordError):
    """A batch could not be written; those before it are whole."""


class OtherRun(RecordError):
    """The record is of another run than the one that was to go on."""


class ReplayDeparts(RecordError):
    """The optimizer, told the recorded losses, asks for other points than were recorded."""
