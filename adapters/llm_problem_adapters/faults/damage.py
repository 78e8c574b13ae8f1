"""Records that were cut, changed or zeroed: what opens has the true history, or a part of it and says so."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from llm_problem.records import RecordError, Row, RunRecord
from llm_problem.records.rows import digest
from llm_problem_adapters.faults.figures import Figure

SUFFIXES = ("", "-wal")
BATCHES, POINTS = 6, 2


def example(path: Path, seed: int = 0) -> list[Row]:
    """A small record, left open, as a crash would leave it, beside one that was closed; what is in them.

    Returns:
        The rows. The files are `path` and its log, and `path` with ".closed" behind its name.
    """
    rng = np.random.default_rng(seed)
    record = RunRecord.create(path, {"dimension": 3, "constraints": 0})
    for _ in range(BATCHES):
        points = rng.standard_normal((POINTS, 3))
        record.append([Row(0, 0, "search", "ok", float(rng.normal()), 0.5, x, digest(x)) for x in points])
    rows = list(record.rows())
    crashed = path.with_name(path.name + ".crashed")
    for suffix in SUFFIXES:
        shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    record.close()
    path.rename(path.with_name(path.name + ".closed"))
    crashed.rename(path)
    Path(f"{crashed}-wal").rename(f"{path}-wal")
    return rows


def end_of_rows(path: Path, rows: list[Row]) -> range:
    """The bytes of the last two of `rows` in a file, by their digests and the points behind those."""
    data = path.read_bytes()
    places = [data.rfind(row.digest) for row in rows[-2:]]
    return range(max(0, min(places) - 40), min(len(data), max(places) + 16 + 1 + 24 + 20))


def outcome(path: Path, rows: list[Row]) -> str:
    """What comes of opening a damaged copy: "whole", "shorter, said", "shorter", "refused", or "WRONG"."""
    before = {suffix: _bytes(path, suffix) for suffix in SUFFIXES}
    try:
        with RunRecord.open(path) as record:
            found = list(record.rows())
            notice = record.notice
    except RecordError as error:
        kept = {suffix: _bytes(path, suffix) for suffix in SUFFIXES} == before
        return "refused" if kept and str(path) in str(error) else "WRONG"
    if not all(_same(one, other) for one, other in zip(found, rows, strict=False)) or len(found) % POINTS:
        return "WRONG"
    if len(found) == len(rows):
        return "whole"
    return "shorter, said" if notice else "shorter"


def tried(
    source: Path, rows: list[Row], folder: Path, changes: Iterator[tuple[str, Callable[[bytearray], None]]]
) -> Counter[str]:
    """The outcomes of changes of copies of a record; each is the suffix of a file and what is done to its bytes."""
    counts: Counter[str] = Counter()
    copy = folder / "copy.sqlite"
    for suffix, change in changes:
        for name in SUFFIXES:
            Path(f"{copy}{name}").unlink(missing_ok=True)
            if Path(f"{source}{name}").exists():
                shutil.copy(f"{source}{name}", f"{copy}{name}")
        Path(f"{copy}-shm").unlink(missing_ok=True)
        data = bytearray(_bytes(copy, suffix))
        change(data)
        Path(f"{copy}{suffix}").write_bytes(data)
        counts[outcome(copy, rows)] += 1
    return counts


def cuts(suffix: str, places: range) -> Iterator[tuple[str, Callable[[bytearray], None]]]:
    """A file cut at each of these bytes."""
    for place in places:
        yield suffix, lambda data, place=place: data.__delitem__(slice(place, None))  # type: ignore[misc]


def flips(suffix: str, places: range, seed: int = 0) -> Iterator[tuple[str, Callable[[bytearray], None]]]:
    """One bit changed in each of these bytes."""
    bits = np.random.default_rng(seed).integers(0, 8, len(places)).tolist()
    for place, bit in zip(places, bits, strict=True):
        yield suffix, lambda data, place=place, bit=bit: data.__setitem__(place, data[place] ^ (1 << bit))  # type: ignore[misc]


def zeroed(suffix: str, places: range, length: int) -> Iterator[tuple[str, Callable[[bytearray], None]]]:
    """So many bytes from each of these on made zero."""
    for place in places:
        yield (
            suffix,
            lambda data, place=place: data.__setitem__(  # type: ignore[misc]
                slice(place, place + length), bytes(len(data[place : place + length]))
            ),
        )


def _bytes(path: Path, suffix: str) -> bytes:
    file = Path(f"{path}{suffix}")
    return file.read_bytes() if file.exists() else b""


def _same(one: Row, other: Row) -> bool:
    return one.digest == other.digest and one.loss == other.loss and np.array_equal(one.x, other.x)  # type: ignore[arg-type]


def damage(folder: Path, quick: bool) -> list[Figure]:
    """Cut, change and zero a record that was closed, and the log of one that was not."""
    path = folder / "example.sqlite"
    rows = example(path)
    closed = path.with_name(path.name + ".closed")
    figures = []
    for source, suffix, what in ((closed, "", "a closed record"), (path, "-wal", "the log of an unclosed one")):
        size = len(_bytes(source, suffix))
        last, all_over = end_of_rows(Path(f"{source}{suffix}"), rows), range(0, size, 509 if quick else 31)
        if quick:
            last = last[::9]
        counts = tried(source, rows, folder, cuts(suffix, last))
        figures.append(_figure(f"{what} cut at each byte of its last two rows", counts))
        figures.append(_figure(f"{what} cut anywhere", tried(source, rows, folder, cuts(suffix, all_over))))
        counts = tried(source, rows, folder, flips(suffix, last))
        figures.append(_figure(f"a bit changed in each byte of the last two rows of {what}", counts))
        figures.append(
            _figure(f"a bit changed anywhere in {what}", tried(source, rows, folder, flips(suffix, all_over)))
        )
        blocks = range(0, size, 4096 if quick else 512)
        counts = tried(source, rows, folder, zeroed(suffix, blocks, 512))
        figures.append(_figure(f"512 bytes of {what} made zero", counts))
    with sqlite3.connect(closed) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    figures.append(_figure("a record of a later version", Counter([outcome(closed, rows)])))
    return figures


def _figure(fault: str, counts: Counter[str]) -> Figure:
    found = "; ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common())
    return Figure(fault, f"{counts.total():,}", found, "WRONG" not in counts)
