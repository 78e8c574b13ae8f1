"""Where examples come from: embedded data, a CSV, JSONL or text file, a data set of the hub, or records in memory.

A `Data` is a description with a checksum: it can be written into a specification and read again elsewhere, and a
file that has changed since is refused instead of giving another problem under the same name.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from llm_problem.tasks import hub_datasets

FORMATS = ("csv", "tsv", "jsonl")
_ENDINGS = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # CSV otherwise

EMBEDDED = {
    "agreement": "agreement.csv",
    "continuations": "continuations.csv",
    "prose": "prose.txt",
    "sentiment": "sentiment.csv",
}
_PREFIX = "embedded:"
_INLINE = "inline"

Record = Mapping[str, str]


@dataclass(frozen=True)
class Data:
    """One file's worth of examples.

    `source` is "embedded:<name>", an absolute path, "hf:<name>[:<config>]:<split>" (see `hub_datasets`), or "inline"
    (then `records` holds them); `sha256` is that of the file's bytes, or of the records as JSON. `format` is how rows
    are read, one of `FORMATS`, or None where the name's ending says it.
    """

    source: str
    sha256: str
    records: tuple[tuple[tuple[str, str], ...], ...] | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")

    @classmethod
    def of(cls, where: Any, format: str | None = None) -> Data:
        """Describe a path, "embedded:<name>", "hf:<name>[:<config>]:<split>" or an iterable of records.

        A record is a mapping of column name to value; a pandas DataFrame and a `datasets.Dataset` count as their rows.
        `format`, of a path, is for a file whose name's ending does not say how to read it. A data set that is named is
        read here and now, for its checksum.

        Raises:
            ValueError: no such file, an unknown embedded name, no such data set (or no connection), no records.
            ImportError: a data set is named and the datasets library is not installed.
        """
        if isinstance(where, Data):
            return where
        if isinstance(where, (str, os.PathLike)):
            source = os.fspath(where)
            if source.startswith(hub_datasets.PREFIX):
                source = hub_datasets.completed(source)
                return cls(source, _hash_records(_hub_records(source)))
            if not source.startswith(_PREFIX):
                source = str(Path(source).expanduser().absolute())
            said = format if format != _format_of(source) else None
            return cls(source, hashlib.sha256(_read_bytes(source)).hexdigest(), format=said)
        if callable(getattr(where, "to_dict", None)) and hasattr(where, "columns"):  # a DataFrame iterates its columns
            where = _rows_of_frame(where)
        if isinstance(where, Mapping):  # a DatasetDict, say
            raise TypeError(f"records were expected, got a mapping of {', '.join(map(str, where))}: choose one of them")
        records = tuple(_plain_record(record) for record in where)
        if not records:
            raise ValueError("no records were given: at least one example is needed")
        return cls(_INLINE, _hash_records(records), records)

    @classmethod
    def from_datasets(cls, name: str, config: str | None = None, split: str = "train") -> Data:
        """Describe a split of a data set of the Hugging Face hub ("owner/name"), or of a local folder of data files.

        It is read here and now, for its checksum: from the library's cache, else from the hub, with a line on stderr.

        Raises:
            ImportError: the datasets library is not installed.
            ValueError: no such data set, configuration or split, or no connection and nothing in the cache.
        """
        return cls.of(hub_datasets.source_of(name, config, split))

    @property
    def label(self) -> str:
        """A short name for cards: the file's name without its folder."""
        if self.source.startswith(hub_datasets.PREFIX):
            return hub_datasets.short_name(self.source)
        return Path(self.source).name if self.source.startswith(os.sep) else self.source

    def text(self) -> str:
        """The contents as text.

        Raises:
            ValueError: the file has changed, is not UTF-8, or this is not a file.
        """
        if self.records is not None or self.source.startswith(hub_datasets.PREFIX):
            raise ValueError("a text file or a string was expected, got records")
        data = _read_bytes(self.source)
        self._require_unchanged(hashlib.sha256(data).hexdigest())
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.source} is not UTF-8 text: {error}") from None

    def rows(self, columns: Sequence[str]) -> list[dict[str, str]]:
        """The examples as dictionaries that have at least the named columns.

        Raises:
            ValueError: an empty file, a missing column (with the columns there are), a line that cannot be read.
        """
        if self.records is not None:
            rows = [dict(record) for record in self.records]
        elif self.source.startswith(hub_datasets.PREFIX):
            found = _hub_records(self.source)
            self._require_unchanged(_hash_records(found))
            rows = [dict(record) for record in found]
        elif (form := self.format or _format_of(self.source)) == "jsonl":
            rows = list(_jsonl_rows(self.text(), self.source))
        else:
            rows = _csv_rows(self.text(), self.source, "\t" if form == "tsv" else ",")
        if not rows:
            raise ValueError(f"{self.source} has no examples: it is empty")
        for number, row in enumerate(rows, start=1):
            for column in columns:
                if row.get(column) is None:
                    raise ValueError(_missing(column, number, row, self.source))
        return rows

    def _require_unchanged(self, found: str) -> None:
        if found != self.sha256:
            raise ValueError(f"{self.source} has changed: sha256 {found}, expected {self.sha256}")


def _format_of(source: str) -> str:
    return _ENDINGS.get(Path(source).suffix.lower(), "csv")


def _read_bytes(source: str) -> bytes:
    if source.startswith(_PREFIX):
        name = source.removeprefix(_PREFIX)
        if name not in EMBEDDED:
            raise ValueError(f"unknown embedded data {name!r}: there are {', '.join(sorted(EMBEDDED))}")
        return (resources.files("llm_problem") / "data" / EMBEDDED[name]).read_bytes()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the data file {source}: {error.strerror or error}") from None


def _hub_records(source: str) -> tuple[tuple[tuple[str, str], ...], ...]:
    return tuple(_plain_record(record) for record in hub_datasets.records(source))


def _plain_record(record: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(record, Mapping):
        raise TypeError(f"a record must be a mapping of column name to value, got {type(record).__name__}")
    return tuple((str(name), _as_text(value)) for name, value in record.items() if not _is_missing(value))


def _as_text(value: Any) -> str:
    """A value as text; a list or mapping, which some tasks read, as JSON like in a JSONL file."""
    if callable(getattr(value, "tolist", None)) and getattr(value, "ndim", False):  # an array, as Parquet files give
        value = value.tolist()
    return json.dumps(value, default=str) if isinstance(value, (list, tuple, dict)) else str(value)


def _rows_of_frame(frame: Any) -> list[Record]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _hash_records(records: tuple) -> str:
    return hashlib.sha256(json.dumps([dict(r) for r in records], sort_keys=True).encode()).hexdigest()


def _csv_rows(text: str, source: str, delimiter: str) -> list[dict[str, str]]:
    # Field values may hold line ends; the default field limit of 128 KiB is kept on purpose.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ValueError(f"{source}, line {reader.line_num}: {error}") from None
    header = list(reader.fieldnames or [])
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise ValueError(f"{source} has several columns called {', '.join(map(repr, twice))}: which one is meant?")
    for row in rows:
        if None in row:
            raise ValueError(
                f"{source}: a line has more fields than the header ({', '.join(header)})" + _separator_hint(header)
            )
    return rows


def _separator_hint(columns: Sequence[str]) -> str:
    """What to do about a header that another separator, or none at all, was meant for."""
    if columns and columns[0].lstrip().startswith("{"):
        return "; it looks like JSON lines: read it with from_jsonl"
    if len(columns) != 1:
        return ""
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (",", "commas")):
        if separator in columns[0]:
            return f"; its header looks separated by {name}, but .tsv files are read by tabs and others by commas"
    return ""


def _jsonl_rows(text: str, source: str) -> Iterable[dict[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source}, line {number} is not JSON, one object a line: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{source}, line {number}: a JSON object was expected, got {type(row).__name__}")
        yield {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in row.items() if v is not None}


def _missing(column: str, number: int, row: Mapping[str, str], source: str) -> str:
    columns = [c for c in row if row[c] is not None]
    near = difflib.get_close_matches(column, columns, n=1)
    hint = _separator_hint(columns) or (f" (did you mean {near[0]!r}?)" if near else "")
    return f"{source}, example {number} has no column {column!r}; it has {', '.join(columns) or 'none'}" + hint
