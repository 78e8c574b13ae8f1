"""What SQLite would pass over in a log it recovers from: transactions behind a damaged place.

After a crash SQLite takes the log's transactions up to the first that is not whole. The last one being cut short is a
crash's usual trace; whole ones behind it mean that the disk or somebody else changed what was written.
Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER, _FRAME = 32, 24  # bytes
_BIG_ENDIAN = {0x377F0682: False, 0x377F0683: True}  # of the words that are summed, by the file's first word


def passed_over(path: Path) -> str | None:
    """What of the log beside the record at `path` SQLite will not take, in words; None where it takes all of it."""
    path = path.resolve()  # where the log lies
    log = path.with_name(path.name + "-wal")
    data = log.read_bytes() if log.is_file() else b""
    if len(data) <= _HEADER:
        return None
    magic, _, size, _, *salts, sum0, sum1 = struct.unpack(">8I", data[:_HEADER])
    big = _BIG_ENDIAN.get(magic)
    if big is None or _sums(data[: _HEADER - 8], (0, 0), big) != (sum0, sum1):
        return "its log cannot be read"
    sums, lost, sound, behind = (sum0, sum1), 0, True, _HEADER
    for place in range(_HEADER, len(data) - _FRAME + 1, _FRAME + size):
        _, commit, *mine, frame0, frame1 = struct.unpack(">6I", data[place : place + _FRAME])
        page = data[place + _FRAME : place + _FRAME + size]
        if sound and mine == salts and len(page) == size:
            sums = _sums(data[place : place + 8] + page, sums, big)
            sound = sums == (frame0, frame1)
        else:
            sound = False
        if sound and commit:
            behind = place + _FRAME + size
        lost += not sound and mine == salts and bool(commit) and len(page) == size
    if lost:
        return f"a part of its log was changed, and {lost} batches at its end cannot be read"
    # What lies there is of this log, not left from one before it: then it would have been whole.
    rest = data[behind:]
    if rest and (len(rest) < _FRAME + size or rest[8:16] == data[16:24] or not any(rest[:4])):
        return "a batch at its end was not written to its end"
    return None


def _sums(data: bytes, before: tuple[int, int], big: bool) -> tuple[int, int]:
    """The log's running checksum, over a multiple of 8 bytes."""
    first, second = before
    words = struct.unpack(f"{'>' if big else '<'}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
