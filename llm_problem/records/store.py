"""The record of one run: an SQLite file with a row for each evaluation, written a batch at a time.

A batch is one transaction, on the disk when `append` returns (WAL, synchronous=FULL): the optimizer is told afterwards.
Opening reads and checks every row. What is damaged is refused and left as it is; `salvage` copies what is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_problem.new_folder import new_file, require_new
from llm_problem.records import schema
from llm_problem.records.errors import DamagedRecord, RecordError, RecordFull
from llm_problem.records.lock import WriterLock
from llm_problem.records.rows import COLUMNS, FIRST, Row, checksum, decode, encode
from llm_problem.records.wal import passed_over

_OF_THE_DISK = ("SQLITE_FULL", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHM")
_PAGE = 512  # rows that are read at once
_MARKS = ", ".join("?" * len(COLUMNS.split(",")))


@dataclass
class Tail:
    """Where a record ends."""

    rows: int = 0
    batches: int = 0
    evaluations: int = 0  # rows that the budget counts
    seconds: float = 0.0
    checksum: bytes = FIRST

    def after(self, row: Row, total: bytes) -> Tail:
        counted = self.evaluations + (row.role != "dev")
        return Tail(row.number, row.batch, counted, row.seconds, total)


class RunRecord:
    """One run's record; `create`, `open` (to write) or `read` makes one. A context manager, which closes it.

    Attributes:
        path: of the file.
        identity: what was run, JSON values; "dimension" and "constraints" say how long arrays are.
        tail: where it ends.
        notice: what was found at its end that could not be read, and is evaluated again; None where all was well.
    """

    notice: str | None = None

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: WriterLock | None, tail: Tail | None = None
    ) -> None:
        self.path, self._connection, self._lock = path, connection, lock
        self.identity = _identity(path, connection)
        self.tail = tail or Tail()
        if tail is None:
            for _ in self.rows():
                pass  # which checks them

    @classmethod
    def create(cls, path: str | os.PathLike[str], identity: dict[str, Any]) -> RunRecord:
        """A new record, to write into.

        Raises:
            FileExistsError: there is something at `path`.
            RecordInUse: another process is making it.
            RecordFull: the disk is full.
        """
        path = Path(path)
        require_new(path, "file, or go on with it (resume)")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = WriterLock(path)
        try:
            with new_file(path) as draft, _writing(path), contextlib.closing(_connect(draft)) as connection:
                schema.create(connection)
                text, now = json.dumps(identity, sort_keys=True), _now()
                values = (1, text, now, checksum((1, text, now), FIRST))
                connection.execute("INSERT INTO run VALUES (?, ?, ?, ?)", values)
                connection.execute("INSERT INTO tail VALUES (1, 0, ?)", (FIRST,))
                # Last: what closing could not copy from the log of a draft would be left behind when that is renamed.
                connection.execute("PRAGMA journal_mode = WAL")
            _sync_folder(path.parent)
            return cls._opened(path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunRecord:
        """A record that is there, to write into.

        Raises:
            FileNotFoundError: there is none.
            RecordInUse: another process writes to it.
            DamagedRecord: it is not whole.
            RecordError: it is no record, or one of a later version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no record {path}")
        lock = WriterLock(path)
        try:
            notice = passed_over(path)
            with cls.read(path) as checked:  # nothing is written to a file that is not whole
                tail = checked.tail
            record = cls._opened(path, lock, tail)
            record.notice = notice
            return record
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _opened(cls, path: Path, lock: WriterLock, tail: Tail | None = None) -> RunRecord:
        connection = _connect(path)
        try:
            with _reading(path):
                schema.migrate(connection)
                return cls(path, connection, lock, tail)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunRecord:
        """A record to look at, while another process writes to it, or where nobody may; errors as for `open`."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no record {path}")
        connection = _connect_to_read(path)
        try:
            with _reading(path):
                version = schema.version_of(connection)
                if not schema.can_read(version):
                    found = "no record of this project" if version is None else f"a record of version {version}"
                    raise RecordError(
                        f"{path} is {found}, and this is version {schema.VERSION}: it is left as it is. Use the "
                        "release that wrote it, or give another path"
                    )
                if version != schema.VERSION:
                    old, connection = connection, sqlite3.connect(":memory:", isolation_level=None)
                    with contextlib.closing(old):
                        old.backup(connection)
                    connection.text_factory = _text
                    schema.migrate(connection)
                return cls(path, connection, None)
        except BaseException:
            connection.close()
            raise

    def rows(self) -> Iterator[Row]:
        """Every row, checked, in order.

        Raises:
            DamagedRecord: a row is not what was written; the rows before it were.
        """
        tail, size = Tail(), (int(self.identity["dimension"]), int(self.identity["constraints"]))
        with _reading(self.path):
            while True:
                page = self._connection.execute(
                    f"SELECT {COLUMNS} FROM evaluation WHERE number > ? ORDER BY number LIMIT {_PAGE}", (tail.rows,)
                ).fetchall()
                for columns in page:
                    row = _checked(self.path, columns, tail, size)
                    tail = tail.after(row, columns[-1])
                    yield row
                if len(page) < _PAGE:
                    break
            if self._connection.execute("SELECT rows, checksum FROM tail").fetchall() != [(tail.rows, tail.checksum)]:
                raise _damaged(self.path, "rows are missing at its end", tail.rows)
        self.tail = tail

    def append(self, rows: Sequence[Row]) -> None:
        """Write a batch; its rows' `number` and `batch` are given here. When this returns, it is on the disk.

        Raises:
            RecordFull: it could not be written, and nothing of it was.
        """
        tail, values = self.tail, []
        for row in rows:
            row = replace(row, number=tail.rows + 1, batch=self.tail.batches + 1)
            values.append(encode(row, tail.checksum))
            tail = tail.after(row, values[-1][-1])
        with _writing(self.path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(f"INSERT INTO evaluation ({COLUMNS}) VALUES ({_MARKS})", values)
                self._connection.execute("UPDATE tail SET rows = ?, checksum = ?", (tail.rows, tail.checksum))
                self._connection.execute("COMMIT")
                self.tail = tail
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                else:  # a signal between the commit and the line behind it
                    count = self._connection.execute("SELECT rows FROM tail").fetchone()[0]
                    self.tail = tail if count == tail.rows else self.tail
                raise

    def note(self, kind: str, note: str | None = None) -> None:
        """Write down that something happened to the run: "started", "resumed", "stopped", "finished"."""
        number = self._connection.execute("SELECT coalesce(max(number), 0) + 1 FROM event").fetchone()[0]
        values = (number, kind, self.tail.evaluations, note, _now())
        with _writing(self.path):
            self._connection.execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", (*values, checksum(values, FIRST)))

    def events(self) -> list[tuple[str, int, str | None, str]]:
        """What happened: kind, evaluations at that time, note, when.

        Raises:
            DamagedRecord: one is not what was written.
        """
        found = []
        with _reading(self.path):
            for *values, total in self._connection.execute("SELECT * FROM event ORDER BY number"):
                if checksum(values, FIRST) != total:
                    raise _damaged(self.path, "an event's checksum does not fit", self.tail.rows)
                found.append(tuple(values[1:]))
        return found

    @property
    def finished(self) -> str | None:
        """Why the run ended, once it has; None while it can go on."""
        events = self.events()
        return events[-1][2] or "" if events and events[-1][0] == "finished" else None

    def close(self) -> None:
        """Let go of file and lock."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def salvage(path: str | os.PathLike[str], to: str | os.PathLike[str]) -> int:
    """Copy the whole batches before the damage into a new record, from which the run can go on.

    Returns:
        How many rows were copied.

    Raises:
        FileExistsError: there is something at `to`.
        DamagedRecord: not even what was run can be read.
    """
    path, batch, copied = Path(path), list[Row](), 0
    require_new(to, "file")
    with contextlib.closing(_connect_to_read(path)) as connection:
        with _reading(path):
            identity = _identity(path, connection)
        with RunRecord.create(to, identity) as new:
            tail, size = Tail(), (int(identity["dimension"]), int(identity["constraints"]))
            with contextlib.suppress(sqlite3.Error, DamagedRecord):
                for columns in connection.execute(f"SELECT {COLUMNS} FROM evaluation ORDER BY number"):
                    row = _checked(path, columns, tail, size)
                    tail = tail.after(row, columns[-1])
                    if batch and row.batch != batch[0].batch:
                        new.append(batch)
                        copied, batch = copied + len(batch), []
                    batch.append(row)
                # Not reached where something was damaged: the last batch may not be whole.
                if batch and connection.execute("SELECT rows FROM tail").fetchone()[0] == tail.rows:
                    new.append(batch)
                    copied += len(batch)
            new.note("salvaged", str(path))
    return copied


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """SQLite wants to write beside a file to read its log; where it may not, it gets a copy, or is told of no log."""
    path = path.resolve()  # where the log lies
    log = path.with_name(path.name + "-wal")
    if os.access(path.parent, os.W_OK) or path.with_name(path.name + "-shm").exists():
        return _connect(path, "ro")
    if not log.is_file() or not log.stat().st_size:
        return _connect(path, "ro&immutable=1")
    with tempfile.TemporaryDirectory() as folder:
        for file in (path, log):
            shutil.copyfile(file, Path(folder) / file.name)
        with contextlib.closing(_connect(Path(folder) / path.name)) as copied, _reading(path):
            connection = sqlite3.connect(":memory:", isolation_level=None)
            copied.backup(connection)
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str:
    """Of bytes that are no text, too, the checksum decides."""
    return data.decode("utf-8", "surrogateescape")


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    if mode == "rw" and not path.exists():
        path.touch()
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise RecordError(f"{path} cannot be opened: {error}") from error
    connection.text_factory = _text
    try:
        with _reading(path):
            for pragma in ("synchronous = FULL", "trusted_schema = OFF", "cell_size_check = ON"):
                connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _identity(path: Path, connection: sqlite3.Connection) -> dict[str, Any]:
    if schema.names_of(connection) != schema.NAMES:
        raise _damaged(path, "its tables are not those of a record", 0)
    rows = connection.execute("SELECT id, identity, created, checksum FROM run").fetchall()
    if len(rows) != 1 or checksum(rows[0][:-1], FIRST) != rows[0][-1]:
        raise _damaged(path, "what was run cannot be read", 0)
    identity = json.loads(rows[0][1])
    return identity


def _checked(path: Path, columns: tuple[Any, ...], tail: Tail, size: tuple[int, int]) -> Row:
    try:
        row = decode(columns, tail.checksum, *size)
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error), tail.rows) from error
    if row.number != tail.rows + 1:
        raise _damaged(path, f"row {tail.rows + 1} is missing", tail.rows)
    return row


def _damaged(path: Path, what: str, whole: int) -> DamagedRecord:
    return DamagedRecord(
        f"{path} is damaged ({what}); the {whole} rows before that are whole. It is left as it is: "
        "llm_problem.records.salvage(path, to) copies them into a new record, from which the run goes on"
    )


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What SQLite finds wrong with the file is damage, unless it is the disk's fault: a log needs a little room."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "").startswith(_OF_THE_DISK):
            raise _full(path, "opened", error) from error
        raise _damaged(path, f"{type(error).__name__}: {error}", 0) from error
    except (sqlite3.Error, UnicodeError, json.JSONDecodeError, KeyError, OverflowError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}", 0) from error


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise _full(path, "written", error) from error


def _full(path: Path, what: str, error: sqlite3.Error) -> RecordFull:
    return RecordFull(
        f"{path} cannot be {what} ({error}): is the disk full, or read only? What was recorded before is whole, and "
        "the run goes on from there (resume) once there is room"
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
