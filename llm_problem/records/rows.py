"""One evaluation as a row: what is kept of it, how its arrays are packed, and the checksum that says it is whole.

SQLite's pages have no checksums. Each row's covers all of its columns and the checksum of the row before, so that a
row that was changed, left out or put elsewhere is found.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

# What became of an evaluation. "gradient": charged for the gradient of the last "ok" one (see `Result.history`).
STATUSES = ("ok", "non-finite", "failed", "timed out", "censored", "gradient")

# Why it was made: asked for by the optimizer, the recommended point's own, or read beside the budget to choose by.
ROLES = ("search", "answer", "dev")

COLUMNS = "number, batch, role, status, loss, seconds, digest, x, constraints, gradient, note, checksum"

FIRST = bytes(16)  # stands before the first row

_RAW, _SHUFFLED = b"\0", b"\1"
_WORTH_A_TRY = 64  # numbers from which on an array is compressed


@dataclass(frozen=True)
class Row:
    """One evaluation.

    Attributes:
        number: of the row, from 1.
        batch: of the transaction it was written in, from 1.
        role: one of `ROLES`.
        status: one of `STATUSES`.
        loss: as it was found; NaN where there is none.
        seconds: since the run began, at the end of the batch; pauses between stopping and going on not counted.
        x: (d,) the point; None where it is that of the row before, or the record keeps none.
        digest: `digest` of the point.
        constraints: (c,) values, feasible where ≤ 0; None where there are none.
        gradient: (d,) of the loss, where the optimizer was given it.
        note: what a failed evaluation raised or returned.
    """

    number: int
    batch: int
    role: str
    status: str
    loss: float
    seconds: float
    x: np.ndarray | None
    digest: bytes
    constraints: np.ndarray | None = None
    gradient: np.ndarray | None = None
    note: str | None = None


def digest(x: np.ndarray) -> bytes:
    """16 bytes that name a point x (d,) float64."""
    return hashlib.blake2b(x.tobytes(), digest_size=16).digest()


def pack(values: np.ndarray | None) -> bytes | None:
    """An array of float64 as bytes; `unpack` gives it back to the bit."""
    if values is None:
        return None
    array = np.ascontiguousarray(values, dtype="<f8")
    raw = array.tobytes()
    if array.size >= _WORTH_A_TRY:
        # Bytes of equal rank together: signs and exponents repeat, mantissas do not.
        shuffled = zlib.compress(np.frombuffer(raw, dtype=np.uint8).reshape(-1, 8).T.tobytes(), 1)
        if len(shuffled) < len(raw):
            return _SHUFFLED + shuffled
    return _RAW + raw


def unpack(packed: bytes | None, size: int) -> np.ndarray | None:
    """The array (size,) that was packed.

    Raises:
        ValueError: these bytes are no such array.
    """
    if packed is None:
        return None
    kind, body = packed[:1], packed[1:]
    if kind == _SHUFFLED:
        inflate = zlib.decompressobj()
        try:
            body = inflate.decompress(body, 8 * size + 1)  # never more than is wanted, whatever the bytes say
        except zlib.error as error:
            raise ValueError(f"an array cannot be unpacked: {error}") from error
    elif kind != _RAW:
        raise ValueError("an array is packed in an unknown way")
    if len(body) != 8 * size:
        raise ValueError(f"an array has {len(body)} bytes, not {8 * size}")
    if kind == _SHUFFLED:
        body = np.frombuffer(body, dtype=np.uint8).reshape(8, -1).T.tobytes()
    return np.frombuffer(body, dtype="<f8").astype(np.float64)


def encode(row: Row, before: bytes) -> tuple[Any, ...]:
    """The row's `COLUMNS`; `before` is the checksum of the row before it."""
    columns = (
        row.number,
        row.batch,
        row.role,
        row.status,
        None if np.isnan(row.loss) else float(row.loss) + 0.0,  # SQLite has neither NaN nor −0.0
        float(row.seconds) + 0.0,
        row.digest,
        pack(row.x),
        pack(row.constraints),
        pack(row.gradient),
        row.note,
    )
    return (*columns, checksum(columns, before))


def decode(columns: tuple[Any, ...], before: bytes, dimension: int, constraints: int) -> Row:
    """The row of its `COLUMNS`.

    Raises:
        ValueError: it is not what `encode` made after a row of the checksum `before`.
    """
    *content, found = columns
    number, batch, role, status, loss, seconds, named, x, G, gradient, note = content
    if checksum(content, before) != found:
        raise ValueError(f"the checksum of row {number} does not fit")
    point = unpack(x, dimension)
    if point is not None and digest(point) != named:
        raise ValueError(f"the point of row {number} does not fit its digest")
    value = float("nan") if loss is None else loss
    more = unpack(G, constraints), unpack(gradient, dimension), note
    return Row(number, batch, role, status, value, seconds, point, named, *more)


def checksum(columns: Any, before: bytes) -> bytes:
    """16 bytes over integers, floats, texts, bytes and None, and over what came before."""
    total = hashlib.blake2b(before, digest_size=16)
    for value in columns:
        if value is None:
            total.update(b"n")
        elif isinstance(value, int):
            total.update(b"i%d;" % value)
        elif isinstance(value, float):
            total.update(b"f" + struct.pack("<d", value))
        else:
            data, kind = (value.encode("utf-8", "surrogatepass"), b"t") if isinstance(value, str) else (value, b"b")
            total.update(kind + b"%d;" % len(data) + data)
    return total.digest()
