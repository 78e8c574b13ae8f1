"""Classification from files and from records: what is read, and what is refused at once."""

import json
from collections import Counter

import pandas as pd
import pytest

import llm_problem as lp
from llm_problem.tasks import Classification

LABELS = {"neg": " bad", "pos": " good"}


def records(count=8, text="sentence {i} about the sea"):
    return [
        {"text": text.format(i=i), "label": ("neg", "pos")[i % 2], "split": ("search", "dev", "test")[i // 2 % 3]}
        for i in range(count)
    ]


def task_of(examples=None, prompt="{text} It was", labels=LABELS, **options):
    options = {"text": "text", "label": "label", "split": "split", **options}
    return Classification.from_records(
        records() if examples is None else examples, prompt=prompt, labels=labels, **options
    )


def test_files_give_what_records_give(tmp_path):
    lines = ["text,label,split", *(",".join(row.values()) for row in records())]
    path, other = tmp_path / "a.csv", tmp_path / "b.csv"
    path.write_text("\n".join(lines))
    other.write_text("text,label\nheld out one,neg\nheld out two,pos\n")
    options = {"text": "text", "label": "label", "split": "split", "prompt": "{text} It was", "labels": LABELS}
    from_file = Classification.from_csv(path, test=other, **options)
    assert from_file.examples("search") == task_of().examples("search")
    assert from_file.examples("test") == [("held out one", 0), ("held out two", 1)]
    assert Classification(path, test=other, **options) == from_file


def test_a_one_class_file_is_refused_at_once(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("text,label\na,neg\nb,neg\nc,neg\n")
    with pytest.raises(ValueError, match=r"one\.csv has a single class, 'neg'"):
        Classification.from_csv(path, text="text", label="label", prompt="{text}", labels=LABELS)


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("txt,label\na,neg\nb,pos\n", "has no column 'text'"),
        ("text,label\na,neg\nb,neg\n", "has a single class, 'neg'"),
        ("text,label\na,neg\nb,good\n", "has the label 'good', which labels does not name"),
        ("text,label\n", "has no examples"),
    ],
)
def test_files_for_the_other_splits_are_read_at_once_too(tmp_path, split, content, message):
    path, other = tmp_path / "a.csv", tmp_path / "other.csv"
    path.write_text("text,label\na,neg\nb,pos\nc,neg\nd,pos\n")
    other.write_text(content)
    options = {"text": "text", "label": "label", "prompt": "{text}", "labels": LABELS, split: other}
    with pytest.raises(ValueError, match=rf"other\.csv.* {message}"):
        Classification.from_csv(path, **options)
    with pytest.raises(ValueError, match=rf"other\.csv.* {message}"):
        Classification.from_records(records(), **options)


@pytest.mark.parametrize("ending", ["jsonl", "json", "txt", "csv"])
def test_json_lines_are_read_whatever_the_names_end_in(tmp_path, ending):
    paths = [tmp_path / f"{name}.{ending}" for name in ("a", "test")]
    for path in paths:
        path.write_text("".join(json.dumps(row) + "\n" for row in records()))
    options = {"text": "text", "label": "label", "prompt": "{text}", "labels": LABELS}
    task = Classification.from_jsonl(paths[0], test=paths[1], split="split", **options)
    assert task.examples("search") == task_of().examples("search")
    assert len(task.examples("test")) == 8
    spec = lp.ProblemSpec("tiny-gpt2", task, lp.subspaces.LoRAXS(2))
    again = lp.ProblemSpec.from_json(spec.to_json())
    assert again == spec and again.task.examples("search") == task.examples("search")
    if ending != "jsonl":
        with pytest.raises(ValueError, match="looks like JSON lines: read it with from_jsonl"):
            Classification.from_csv(paths[0], split="split", **options)


def test_a_data_frame_is_records():
    frame = pd.DataFrame(records())
    assert task_of(frame) == task_of(records())
    frame.loc[3, "label"] = None
    with pytest.raises(ValueError, match="example 4 has no column 'label'; it has text, split"):
        task_of(frame)


def test_sst2_reads_through_the_public_interface(sst2):
    task = Classification.from_csv(
        sst2 / "train.csv",
        text="text",
        label="label",
        prompt="{text} It was",
        labels={"negative": " terrible", "positive": " great"},
        search_size=32,
        dev=sst2 / "dev.csv",
        test=sst2 / "test.csv",
    )
    for seed in (0, 1):
        assert Counter(label for _, label in task.examples("search", seed)) == {0: 16, 1: 16}
    assert not {text for text, _ in task.examples("search")} & {text for text, _ in task.examples("test")}
