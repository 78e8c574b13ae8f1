"""The `datasets` library as a source: names are checked everywhere, reading where it is installed."""

import json
import sys

import pytest

import llm_problem as lp
from llm_problem.tasks import Classification, Data, MultipleChoice
from llm_problem.tasks.hub_datasets import completed, short_name

ROWS = [{"text": f"line {i}", "label": i % 2, "choices": ["yes", "no"], "score": i / 4} for i in range(40)]


@pytest.fixture
def folder(tmp_path):
    """A data set as the library reads one: a folder with a file a split."""
    path = tmp_path / "mine"
    path.mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:8])):
        (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def library(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


@pytest.mark.parametrize(
    "source",
    [
        "hf:owner/name:train",
        "hf:name:test",
        "hf:owner/name:config:train",
        "hf:name:train[:100]",
        "hf:o/n:c:train[10%:]",
    ],
)
def test_a_name_is_kept_as_it_is(source):
    assert completed(source) == source


def test_a_local_folder_is_made_absolute_and_not_shown(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert completed("hf:mine:train") == f"hf:{folder}:train"
    assert short_name(f"hf:{folder}:train[:9]") == "hf:mine:train[:9]"


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:name:", "hf:a:b:c:d", "hf::train", "hf:name:train[:9"])
def test_what_names_no_split_is_refused(source):
    with pytest.raises(ValueError, match="named as hf:name:split or hf:name:config:split, got"):
        Data.of(source)


def test_without_the_library_the_error_is_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"hf:owner/name:train is read .*: pip install 'datasets>=4\.0'"):
        Data.from_datasets("owner/name")


def test_a_split_is_read_and_checked_when_it_is_read_again(folder, library, capfd):
    data = Data.from_datasets(str(folder), split="train")
    assert data.rows(["text", "label"])[3]["text"] == "line 3"
    assert [json.loads(row["choices"]) for row in data.rows(["choices"])] == [["yes", "no"]] * 40
    assert data.label == "hf:mine:train" and data.records is None
    assert "Hugging Face hub" not in capfd.readouterr().err  # a local folder is fetched from nowhere
    assert Data.of(f"hf:{folder}:train[:5]").rows(["label"]) == data.rows(["label"])[:5]
    with pytest.raises(ValueError, match=r"mine:train has changed: sha256"):
        Data(data.source, "0" * 64).rows(["text"])


def test_tasks_read_it_and_their_descriptions_survive_json(folder, library):
    options = {"text": "text", "label": "label", "prompt": "{text} is", "labels": {"0": " bad", "1": " good"}}
    task = Classification(f"hf:{folder}:train", test=Data.from_datasets(str(folder), split="test"), **options)
    memory = Classification.from_records(ROWS, test=ROWS[:8], **options)
    for split in ("search", "dev", "test"):
        assert task.examples(split) == memory.examples(split)
    spec = lp.ProblemSpec("tiny-gpt2", task, lp.subspaces.LoRAXS(2, layers=1))
    assert lp.ProblemSpec.from_json(spec.to_json()) == spec
    assert spec.fingerprint("m") == lp.ProblemSpec.from_json(spec.to_json()).fingerprint("m")


def test_a_dataset_in_memory_counts_as_its_rows(library):
    rows = library.Dataset.from_list(ROWS)
    assert Data.of(rows) == Data.of(ROWS)
    task = MultipleChoice.from_records(rows, prompt="{text}?", choices="choices", answer="label")
    assert len(task.examples("search")) > 10
    with pytest.raises(TypeError, match="got a mapping of train, test: choose one of them"):
        Data.of(library.DatasetDict({"train": rows, "test": rows}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mine", {"split": "dev"}, r"cannot read hf:.*mine:dev: Unknown split"),
        ("mine", {"config": "other"}, r"cannot read hf:.*mine:other:train: .*'other' not found"),
        ("owner/name-that-is-not-cached", {}, r"not in the cache of datasets, and the hub cannot be reached"),
    ],
)
def test_what_cannot_be_read_is_refused(name, options, message, folder, library, monkeypatch, capfd):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ValueError, match=message):
        Data.from_datasets(name, **options)
    # Whatever may be fetched is announced; tests run without the hub (see conftest).
    assert ("from the Hugging Face hub" in capfd.readouterr().err) == ("owner" in name)
