"""Records: what was written comes back to the bit, and what was changed is found."""

import json
import math
import os
import shutil
import sqlite3
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llm_problem.records import DamagedRecord, RecordError, RecordInUse, Row, RunRecord, salvage, schema
from llm_problem.records.rows import ROLES, STATUSES, digest, pack, unpack

KEPT = Path(__file__).with_name("data")
IDENTITY = {"dimension": 3, "constraints": 1, "name": "naïve Σ"}
numbers = st.floats(allow_nan=True, allow_infinity=True)


def row(loss=1.5, x=(0.1, -1e-300, math.pi), role="search", status="ok", **more):
    x = np.array(x, dtype=float)
    return Row(0, 0, role, status, loss, 0.25, x, digest(x), **more)


def record_of(path, *batches):
    record = RunRecord.create(path, IDENTITY)
    for batch in batches:
        record.append(batch)
    return record


def same(one, other):
    arrays_of = [(getattr(one, name), getattr(other, name)) for name in ("x", "constraints", "gradient")]
    return (
        (one.role, one.status, one.note, one.digest, one.seconds)
        == (other.role, other.status, other.note, other.digest, other.seconds)
        and np.array_equal(one.loss, other.loss, equal_nan=True)
        and all(a is b is None or np.array_equal(a, b, equal_nan=True) for a, b in arrays_of)
    )


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(width=64)))
@settings(max_examples=50, deadline=None)
def test_arrays_are_packed_to_the_bit(values):
    assert unpack(pack(values), values.size).tobytes() == values.tobytes()


def test_what_repeats_is_packed_small_and_what_is_too_much_is_not_unpacked():
    packed = pack(np.zeros(100_000))
    assert len(packed) < 8000
    with pytest.raises(ValueError, match="bytes, not 24"):
        unpack(packed, 3)


@given(
    st.lists(
        st.builds(
            row,
            numbers,
            st.lists(st.floats(allow_nan=False), min_size=3, max_size=3),
            st.sampled_from(ROLES),
            st.sampled_from(STATUSES),
            constraints=st.none() | arrays(np.float64, 1),
            gradient=st.none() | arrays(np.float64, 3),
            note=st.none() | st.text(),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=30, deadline=None)
def test_rows_come_back_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "run.sqlite"
    record_of(path, rows[:2], rows[2:]).close()
    with RunRecord.open(path) as record:
        found = list(record.rows())
        assert record.identity == IDENTITY
        assert record.tail.evaluations == sum(row.role != "dev" for row in rows)
    assert [one.number for one in found] == list(range(1, len(rows) + 1))
    assert [one.batch for one in found] == [1] * min(2, len(rows)) + [2] * (len(rows) - 2)
    for before, after in zip(rows, found, strict=True):
        assert same(before, after)


def test_a_record_is_one_file_once_it_is_closed_and_readable_by_any_sqlite(tmp_path):
    record_of(tmp_path / "deep" / "run.sqlite", [row(2.0), row(float("nan"), status="non-finite")]).close()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["run.sqlite"]
    with sqlite3.connect(tmp_path / "deep" / "run.sqlite") as connection:
        assert connection.execute("SELECT loss, status FROM evaluation").fetchall() == [
            (2.0, "ok"),
            (None, "non-finite"),
        ]
    connection.close()


def test_a_record_can_be_read_while_it_is_written_and_has_whole_batches(tmp_path):
    with record_of(tmp_path / "run.sqlite", [row(), row()]) as record:
        with RunRecord.read(tmp_path / "run.sqlite") as reader:
            assert reader.tail.rows == 2
        record.append([row()])
        with RunRecord.read(tmp_path / "run.sqlite") as reader:
            assert (reader.tail.rows, reader.tail.batches) == (3, 2)


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "run.sqlite"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"run\.sqlite exists already"):
        RunRecord.create(path, IDENTITY)
    assert path.read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["run.sqlite"]


def test_there_is_one_writer_and_the_second_is_told_who(tmp_path):
    path = tmp_path / "run.sqlite"
    with record_of(path, [row()]):
        with pytest.raises(RecordInUse, match=f"written by process {os.getpid()} on host"):
            RunRecord.open(path)
        assert path.with_name("run.sqlite.lock").exists()
    with RunRecord.open(path):
        pass
    path.with_name("run.sqlite.lock").write_text("what a crash has left")
    with RunRecord.open(path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["run.sqlite"]


def test_a_link_to_a_record_is_that_record(tmp_path):
    path, link = tmp_path / "run.sqlite", tmp_path / "elsewhere" / "link.sqlite"
    link.parent.mkdir()
    link.symlink_to(path)
    with record_of(path, [row()]), pytest.raises(RecordInUse, match=r"link\.sqlite is being written by process"):
        RunRecord.open(link)
    with RunRecord.open(link) as record:
        assert record.tail.rows == 1


def test_the_log_of_a_linked_record_is_looked_at(tmp_path):
    folder, link = tmp_path / "cut", tmp_path / "link.sqlite"
    folder.mkdir()
    with record_of(tmp_path / "run.sqlite", [row(1.0)], [row(2.0)]):
        for suffix in ("", "-wal"):
            shutil.copy(tmp_path / f"run.sqlite{suffix}", folder / f"run.sqlite{suffix}")
    log = folder / "run.sqlite-wal"
    log.write_bytes(log.read_bytes()[:-100])
    link.symlink_to(folder / "run.sqlite")
    with RunRecord.open(link) as record:
        assert record.tail.rows == 1 and "not written to its end" in record.notice


def test_a_record_where_nobody_may_write_is_read_with_its_log(tmp_path):
    """As another user, since root may write everywhere."""
    with tempfile.TemporaryDirectory() as top:  # whose way there everybody may go
        folder = Path(top) / "archive"
        folder.mkdir()
        os.chmod(top, 0o755)
        with record_of(folder / "closed.sqlite", [row(1.0)], [row(2.0)]):
            for suffix in ("", "-wal"):
                shutil.copy(folder / f"closed.sqlite{suffix}", folder / f"crashed.sqlite{suffix}")
        before = {path: path.read_bytes() for path in folder.iterdir()}
        folder.chmod(0o555)
        code = os.fork()
        if code == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                for name in ("closed", "crashed"):
                    with RunRecord.read(folder / f"{name}.sqlite") as record:
                        assert [one.loss for one in record.rows()] == [1.0, 2.0]
                    with pytest.raises(RecordError, match=rf"{name}\.sqlite cannot be written \("):
                        RunRecord.open(folder / f"{name}.sqlite")
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(code, 0)[1]) == 0
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
        folder.chmod(0o755)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evaluation SET loss = 0.5 WHERE number = 2",
        "UPDATE evaluation SET loss = NULL WHERE number = 2",
        "UPDATE evaluation SET loss = '1.5' || 'x' WHERE number = 1",
        "UPDATE evaluation SET status = 'failed' WHERE number = 3",
        "UPDATE evaluation SET x = (SELECT x FROM evaluation WHERE number = 3) WHERE number = 1",
        "DELETE FROM evaluation WHERE number = 1",
        "DELETE FROM evaluation WHERE number = 2",
        "DELETE FROM evaluation WHERE number = 3",
        "INSERT INTO evaluation SELECT 4, 2, role, status, loss, seconds, digest, x, constraints, gradient, note, "
        "checksum FROM evaluation WHERE number = 3",
        "UPDATE tail SET rows = 2",
        'UPDATE run SET identity = \'{"dimension": 3, "constraints": 0}\'',
        "DELETE FROM run",
        "DROP TABLE tail",
        "CREATE TRIGGER evil AFTER INSERT ON event BEGIN DELETE FROM evaluation; END",
        "CREATE VIEW evil AS SELECT 1",
    ],
)
def test_what_was_changed_is_refused_and_left_as_it_is(tmp_path, statement):
    path = tmp_path / "run.sqlite"
    record_of(path, [row(1.0), row(2.0, x=(1, 2, 3))], [row(3.0, x=(3, 2, 1))]).close()
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DamagedRecord, match=r"run\.sqlite is damaged .* left as it is.*salvage"):
        RunRecord.open(path)
    assert path.read_bytes() == before


def test_whole_batches_before_the_damage_are_salvaged(tmp_path):
    path, new = tmp_path / "run.sqlite", tmp_path / "new.sqlite"
    batches = [[row(1.0), row(2.0)], [row(3.0), row(4.0)], [row(5.0)]]
    record_of(path, *batches).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE evaluation SET loss = 0 WHERE number = 4")
    connection.close()
    assert salvage(path, new) == 2
    with RunRecord.open(new) as record:
        assert [one.loss for one in record.rows()] == [1.0, 2.0]
        assert record.identity == IDENTITY
    with pytest.raises(FileExistsError, match=r"new\.sqlite"):
        salvage(path, new)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b""), "no record of this project"),
        (lambda path: path.write_bytes(bytes(8192)), "is damaged"),
        (lambda path: path.write_text("evaluation,loss\n1,2.5\n"), "is damaged"),
        (lambda path: sqlite3.connect(path).executescript("CREATE TABLE run (x); CREATE TABLE more (y);"), "no record"),
    ],
)
def test_what_is_no_record_is_said_to_be_none(tmp_path, make, message):
    path = tmp_path / "run.sqlite"
    make(path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match=message):
        RunRecord.open(path)
    assert path.read_bytes() == before


def test_a_later_version_is_refused(tmp_path):
    path = tmp_path / "run.sqlite"
    record_of(path, [row()]).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(RecordError, match="a record of version 7, and this is version"):
        RunRecord.open(path)


@pytest.mark.parametrize("version", range(1, schema.VERSION + 1))
def test_a_record_of_every_version_there_was_is_read_and_gone_on_with(tmp_path, version):
    """Kept files: written by the release whose version they have, with these rows."""
    path = tmp_path / "run.sqlite"
    shutil.copy(KEPT / f"record-v{version}.sqlite", path)
    with RunRecord.read(path) as record:
        rows = list(record.rows())
    expected = json.loads((KEPT / f"record-v{version}.json").read_text(encoding="utf-8"))
    assert [[one.status, repr(one.loss), one.x.tolist(), one.note] for one in rows] == expected
    with RunRecord.open(path) as record:
        record.append([row(x=np.zeros(record.identity["dimension"]))])
    with RunRecord.read(path) as record:
        assert record.tail.rows == len(expected) + 1


def test_an_older_version_is_brought_to_this_one_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "run.sqlite"
    record_of(path, [row(2.5)]).close()
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    monkeypatch.setitem(schema.MIGRATIONS, schema.VERSION - 1, "CREATE TABLE more (x); CREATE TABLE run (twice)")
    before = path.read_bytes()
    with pytest.raises(RecordError):
        RunRecord.open(path)  # a migration that fails leaves nothing half done
    assert path.read_bytes() == before
    monkeypatch.setitem(schema.MIGRATIONS, schema.VERSION - 1, "CREATE TABLE more (x)")
    monkeypatch.setattr(schema, "NAMES", schema.NAMES | {"more"})
    with RunRecord.read(path) as record:  # in memory: the file may be read only
        assert record.tail.rows == 1
    assert path.read_bytes() == before
    with RunRecord.open(path) as record:
        record.append([row(3.5)])
    with RunRecord.open(path) as record:
        assert [one.loss for one in record.rows()] == [2.5, 3.5]
