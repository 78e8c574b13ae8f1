"""What a run measures when its search is over."""

import json

import pytest

import llm_problem as lp
from llm_problem import registry
from llm_problem.cli import main
from llm_problem.export.run_folder import export_run


@pytest.mark.parametrize("dev", [[], [("a warm day", "good")]], ids=["empty", "a single class"])
def test_a_task_without_a_dev_split_can_be_run_and_exported(dev, tmp_path, monkeypatch):
    sentences = [("a fine day", "good"), ("a dull day", "bad"), ("warm", "good"), ("stale", "bad")]
    task = lp.tasks.Classification.from_records(
        [
            {"text": t, "label": label, "split": split}
            for split, rows in {"search": sentences, "dev": dev, "test": sentences}.items()
            for t, label in rows
        ],
        text="text",
        label="label",
        prompt="{text} is",
        labels={"bad": " bad", "good": " good"},
        split="split",
    )
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))
    id = "no_dev/tiny-gpt2-days-lora-xs-d8-v1"
    lp.register(id, lambda: lp.ProblemSpec("tiny-gpt2", task, lp.subspaces.LoRAXS(2, layers=1)))
    run = tmp_path / "run"
    assert main(["run", id, "--optimizer", "cma", "random-search", "--budget", "4", "--out", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    for measured in (result["pretrained"], *result["results"]):
        assert measured["dev"] == {} and measured["test"]["examples"] == 4
    done = export_run(run)
    assert "on the search split of 2" in done.why and "dev was not read for all of them" in done.why
    card = (done.path / "README.md").read_text()
    assert "| test | loss |" in card and "| dev |" not in card
