"""The tables of a record, their version, and how an older file becomes one of this version."""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x4C4C4D50  # "LLMP", in the file's header
VERSION = 1

# run: one row, what was run (JSON). evaluation: see `rows`. tail: how many rows there are, and
# the checksum of the last one, so that none is missing at the end. event: when the run was started, resumed and ended.
TABLES = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    identity TEXT NOT NULL,
    created TEXT NOT NULL,
    checksum BLOB NOT NULL
);
CREATE TABLE evaluation (
    number INTEGER PRIMARY KEY,
    batch INTEGER NOT NULL,
    role TEXT NOT NULL,
    status TEXT NOT NULL,
    loss REAL,
    seconds REAL NOT NULL,
    digest BLOB NOT NULL,
    x BLOB,
    constraints BLOB,
    gradient BLOB,
    note TEXT,
    checksum BLOB NOT NULL
);
CREATE TABLE tail (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    rows INTEGER NOT NULL,
    checksum BLOB NOT NULL
);
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    evaluations INTEGER NOT NULL,
    note TEXT,
    at TEXT NOT NULL,
    checksum BLOB NOT NULL
);
"""

NAMES = {"run", "evaluation", "tail", "event"}

# Version → the statements that make the next one of it.
MIGRATIONS: dict[int, str] = {}


def names_of(connection: sqlite3.Connection) -> set[str]:
    """Whatever tables, indices, views and triggers there are."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


def create(connection: sqlite3.Connection) -> None:
    """The tables of this version, in an empty database."""
    connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}; {TABLES}")


def version_of(connection: sqlite3.Connection) -> int | None:
    """The version of the tables; None where the file is no record."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        return None
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def can_read(version: int | None) -> bool:
    """Whether a file of that version can be brought to this one."""
    return version is not None and all(step in MIGRATIONS for step in range(version, VERSION)) and version <= VERSION


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to this version, in one transaction."""
    version = version_of(connection)
    if version is None or version == VERSION:
        return
    steps = "".join(f"{MIGRATIONS[step]};" for step in range(version, VERSION))
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {VERSION}; COMMIT;")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
