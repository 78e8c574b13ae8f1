"""Examples from files and from memory: read as they stand, refused with a reason where they cannot be read."""

import hashlib
import json

import numpy as np
import pytest

from llm_problem.tasks import Data


@pytest.fixture
def write(tmp_path):
    def to_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to_file


def test_csv_rows_keep_commas_quotes_and_line_ends(write):
    path = write("a.csv", 'text,label\n"one, ""two""\nthree",yes\n plain ,no\n')
    assert Data.of(path).rows(["text", "label"]) == [
        {"text": 'one, "two"\nthree', "label": "yes"},
        {"text": " plain ", "label": "no"},
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\tlabel\na, b\tyes\n"),
        ("a.jsonl", '{"text": "a, b", "label": "yes"}\n\n'),
        ("a.ndjson", '{"text": "a, b", "label": "yes"}'),
        ("a.CSV", '\ufefftext,label\r\n"a, b",yes\r\n'),
    ],
)
def test_other_formats_give_the_same_rows(write, name, content):
    assert Data.of(write(name, content)).rows(["text", "label"]) == [{"text": "a, b", "label": "yes"}]


def test_numbers_and_truth_values_become_their_json_text(write):
    rows = Data.of(write("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}\n')).rows(["label"])
    assert [row["label"] for row in rows] == ["1", "true"]


def test_a_line_separator_inside_a_json_string_ends_no_line(write):
    path = write("a.jsonl", json.dumps({"text": "one\u2028two\u0085three"}, ensure_ascii=False) + "\n")
    assert Data.of(path).rows(["text"]) == [{"text": "one\u2028two\u0085three"}]


def test_checksum_is_that_of_the_bytes_and_no_folder_counts(write, tmp_path):
    content = b"text,label\na,b\n"
    path = write("a.csv", content)
    (tmp_path / "sub").mkdir()
    other = write("sub/b.csv", content)
    assert Data.of(path).sha256 == Data.of(other).sha256 == hashlib.sha256(content).hexdigest()
    assert Data.of(path).label == "a.csv"


def test_a_relative_path_is_kept_as_absolute(write, monkeypatch, tmp_path):
    write("a.csv", "text\nhello\n")
    monkeypatch.chdir(tmp_path)
    data = Data.of("a.csv")
    monkeypatch.chdir("/")
    assert data.rows(["text"]) == [{"text": "hello"}]


def test_records_of_any_iterable_are_read_once(write):
    data = Data.of({"text": str(i), "n": i} for i in range(3))
    assert data.rows(["text", "n"]) == data.rows(["text", "n"])
    assert [row["n"] for row in data.rows(["n"])] == ["0", "1", "2"]
    assert data == Data.of([{"text": str(i), "n": i} for i in range(3)])


def test_embedded_data_needs_no_path():
    assert len(Data.of("embedded:sentiment").rows(["text", "label", "split"])) == 600
    assert Data.of("embedded:prose").text().startswith("Searching Without a Map")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", "", "empty.csv has no examples"),
        ("header.csv", "text,label\n", "header.csv has no examples"),
        ("empty.jsonl", "\n\n", "empty.jsonl has no examples"),
        ("column.csv", "txt,label\na,b\n", r"example 1 has no column 'text'; it has txt, label .*mean 'txt'"),
        ("short.csv", "label,text\na,b\nc\n", "example 2 has no column 'text'; it has label$"),
        ("long.csv", "text,label\na,b\nc,d,e\n", r"more fields than the header \(text, label\)"),
        ("semi.csv", "text;label\na;b\n", "no column 'text'.* header looks separated by semicolons"),
        ("semi2.csv", "text;label\na, b;c\n", r"more fields than the header.* separated by semicolons"),
        ("tabs.csv", "text\tlabel\na\tb\n", "separated by tabs, but .tsv files are read by tabs"),
        ("commas.tsv", "text,label\na,b\n", "separated by commas"),
        ("twice.csv", "text,label,text\na,b,c\n", "several columns called 'text': which one"),
        ("json.csv", '{"text": "a, b"}\n{"text": "c, d"}\n', "looks like JSON lines: read it with from_jsonl"),
        ("null.jsonl", '{"text": null}\n', "example 1 has no column 'text'"),
        ("bad.jsonl", '{"text": "a"}\n{"text": \n', "bad.jsonl, line 2 is not JSON"),
        ("list.jsonl", '["a"]\n', "line 1: a JSON object was expected, got list"),
        ("latin.csv", "text\ncaf\xe9\n".encode("latin-1"), "latin.csv is not UTF-8"),
        ("huge.csv", "text\n" + "a" * 200_000 + "\n", r"huge\.csv, line \d: field larger"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_name(write, name, content, message):
    data = Data.of(write(name, content))
    with pytest.raises(ValueError, match=message):
        data.rows(["text"])


def test_a_file_that_changed_is_refused(write):
    path = write("a.csv", "text\na\n")
    data = Data.of(path)
    path.write_text("text\nb\n")
    with pytest.raises(ValueError, match=rf"has changed: sha256 [0-9a-f]{{64}}, expected {data.sha256}"):
        data.rows(["text"])


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no-such-file.csv", "no-such-file.csv: No such file"),
        ("/", "cannot read the data file /: Is a directory"),
        ("embedded:sentimental", "'sentimental': there are agreement, continuations, prose, sentiment"),
        ([], "at least one example"),
    ],
)
def test_what_is_no_data_is_refused(where, message):
    with pytest.raises(ValueError, match=message):
        Data.of(where)


def test_the_format_is_kept_only_where_the_ending_does_not_say_it(write):
    rows = [{"text": "a, b"}]
    by_name, said = (Data.of(write(name, '{"text": "a, b"}\n'), "jsonl") for name in ("a.jsonl", "a.json"))
    assert (by_name.format, said.format) == (None, "jsonl")
    assert by_name.rows(["text"]) == said.rows(["text"]) == rows
    assert Data.of(write("a.txt", "text\ta\na, b\tc\n"), "tsv").rows(["text"])[0]["text"] == "a, b"
    with pytest.raises(ValueError, match="format must be one of csv, tsv, jsonl, got 'json'"):
        Data.of(write("a.json", "{}"), "json")


@pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan")])
def test_what_is_missing_in_a_record_is_no_text(missing):
    with pytest.raises(ValueError, match="example 1 has no column 'text'"):
        Data.of([{"text": missing, "label": "a"}]).rows(["text"])


def test_a_record_that_is_no_mapping_is_refused():
    with pytest.raises(TypeError, match="mapping of column name to value, got tuple"):
        Data.of([("a great film", "positive")])


def test_a_missing_value_in_a_record_is_a_missing_column():
    with pytest.raises(ValueError, match="inline, example 1 has no column 'label'; it has text"):
        Data.of([{"text": "a", "label": None}]).rows(["text", "label"])


def test_records_are_no_running_text():
    with pytest.raises(ValueError, match="got records"):
        Data.of([{"text": "a"}]).text()
