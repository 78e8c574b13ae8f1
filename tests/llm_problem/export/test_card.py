"""README.md of what is exported: hubs can read it, its code runs, and nothing in it can break out of its place."""

import re

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import llm_problem as lp
from llm_problem.export.card import quoted
from llm_problem.models.quiet import quiet_transformers

TOKENS = torch.tensor([[9, 31, 7, 100, 55, 12, 80]])
HOSTILE = "---\n# Not a heading\n```\n| a | b |\nname: 'x': \"y\"\u2028\x7f`<b>*"


def split(text):
    """(front matter, body) of a card."""
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, flags=re.DOTALL).groups()
    return yaml.safe_load(front), body


def blocks(body, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", body, flags=re.DOTALL | re.MULTILINE)


def outside_blocks(body):
    return re.sub(r"^```\w*\n.*?^```$", "", body, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def problem(text_task):
    return lp.Problem("tiny-gpt2", text_task, lp.subspaces.LoRAXS(2, layers=1), seed=4)


def test_card_says_what_it_is_and_what_it_reached(problem, tmp_path):
    x = np.ones(problem.dimension)
    problem.save_adapter(x, tmp_path / "adapter", notes={"optimizer": "cma", "test split": {"loss": 0.25}})
    front, body = split((tmp_path / "adapter" / "README.md").read_text(encoding="utf-8"))
    assert front == {
        "base_model": "tiny-gpt2",
        "library_name": "peft",
        "tags": ["llm-problem", "gradient-free", "lora"],
    }
    assert f"| loss | {problem(problem.x0):.6g} | {problem(x):.6g} |" in body
    for line in (
        "- optimizer: `cma`",
        "- test split: loss `0.25`",
        f"- data sha256: `{problem.spec.task.data.sha256}`",
        f"- fingerprint: `{problem.fingerprint}`",
        "- dimension: `8`",
        "- seed: `4`",
    ):
        assert f"\n{line}\n" in body, line
    problem.save_model(x, tmp_path / "model")
    front, body = split((tmp_path / "model" / "README.md").read_text(encoding="utf-8"))
    assert front["library_name"] == "transformers"
    assert "test split" not in body and "How it was found" not in body  # only what the caller tells


def test_description_in_the_card_rebuilds_the_problem(tmp_path):
    problem = lp.make("tiny-gpt2-sentiment-lora-xs-d128-v1")
    problem.save_adapter(problem.x0, tmp_path / "adapter")
    (description,) = blocks((tmp_path / "adapter" / "README.md").read_text(encoding="utf-8"), "json")
    assert lp.ProblemSpec.from_json(description) == problem.spec


def test_examples_given_in_place_stay_at_home(label_task, tmp_path):
    problem = lp.Problem("tiny-gpt2", label_task, lp.subspaces.LoRAXS(2, layers=1))
    problem.save_adapter(problem.x0, tmp_path / "adapter")
    text = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "needlessly long speech" in problem.spec.to_json()
    assert "needlessly long speech" not in text and "18 examples, not repeated here" in text


@pytest.mark.parametrize("model", ["tiny-gpt2", "tiny-bert"])
@pytest.mark.parametrize("subspace", [lp.subspaces.Scales(layers=1), lp.subspaces.SoftPrompt("Well then", 4)])
def test_its_code_loads_the_adapter(model, subspace, text_task, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    problem = lp.Problem(model, text_task, subspace)
    x = np.ones(problem.dimension)
    problem.save_adapter(x, tmp_path / "adapter")
    body = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    loaded = run(blocks(body, "python"), tmp_path / "adapter", monkeypatch)
    assert type(loaded["model"]).__name__.startswith("PeftModel")
    assert loaded["tokenizer"].get_vocab() == problem.tokenizer.get_vocab()
    if problem.subspace.prompt:
        assert re.search(r"^It stands before every text where ` ?[Ww]ell then` stood", body, flags=re.MULTILINE)
        assert "| search split | prompted, not searched | this adapter |" in body
    else:
        with problem.evaluator.changed(x[None, :]), torch.no_grad():
            expected = problem.model(input_ids=TOKENS).logits
            torch.testing.assert_close(loaded["model"](input_ids=TOKENS).logits, expected, rtol=1e-5, atol=1e-5)


def test_its_code_loads_the_whole_model(problem, tmp_path, monkeypatch):
    x = np.ones(problem.dimension)
    problem.save_model(x, tmp_path / "model")
    loaded = run(blocks((tmp_path / "model" / "README.md").read_text(), "python"), tmp_path / "model", monkeypatch)
    with problem.evaluator.changed(x[None, :]), torch.no_grad():
        expected = problem.model(input_ids=TOKENS).logits
        torch.testing.assert_close(loaded["model"](input_ids=TOKENS).logits, expected, rtol=1e-5, atol=1e-5)


def test_its_code_takes_the_object_that_was_searched(small_pair, text_task, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    pair = small_pair("llama")
    problem = lp.Problem(pair, text_task, lp.subspaces.LoRAXS(2, layers=1))
    problem.save_adapter(problem.x0, tmp_path / "adapter")
    python = blocks((tmp_path / "adapter" / "README.md").read_text(), "python")
    assert run(python, tmp_path / "adapter", monkeypatch, base=pair[0])["model"].get_base_model() is pair[0]


def run(python, folder, monkeypatch, **names):
    """Run the one Python block of a card in its folder; returns its names."""
    (block,) = python
    monkeypatch.chdir(folder)
    with quiet_transformers():
        exec(compile(block, "README.md", "exec"), names)
    return names


def test_hostile_names_stay_in_their_place(tmp_path, tiny_gpt2, text_task):
    problem = lp.Problem(tiny_gpt2, text_task, lp.subspaces.SoftPrompt(HOSTILE[:40], 4))
    plain = headings_of(problem, tmp_path / "plain", {"note": "text"})
    assert plain == headings_of(problem, tmp_path / "hostile", {HOSTILE: HOSTILE, "note": {HOSTILE: HOSTILE * 50}})


def headings_of(problem, folder, notes):
    problem.save_adapter(problem.x0, folder, notes=notes)
    front, body = split((folder / "README.md").read_text(encoding="utf-8"))
    assert set(front) == {"base_model", "library_name", "tags"}
    assert len(blocks(body, "python")) == len(blocks(body, "json")) == 1
    rest = outside_blocks(body)
    assert "```" not in rest and max(map(len, rest.splitlines())) < 2000
    return [line for line in rest.splitlines() if line.startswith(("#", "|", "---"))]


def test_folder_with_a_hostile_name_keeps_the_front_matter_whole(tmp_path, text_task):
    folder = tmp_path / "x\n---\n'a': \"b\" # c"
    lp.make("tiny-gpt2-prose-lora-xs-d32-v1").save_model(np.zeros(32), folder)
    problem = lp.Problem(folder, text_task, lp.subspaces.LoRAXS(1, layers=1))
    problem.save_adapter(problem.x0, tmp_path / "adapter")
    front, body = split((tmp_path / "adapter" / "README.md").read_text(encoding="utf-8"))
    assert front["base_model"] == folder.name
    (block,) = blocks(body, "python")
    assert repr(str(folder)) in block


@given(st.text())
def test_quoted_text_is_read_back_by_yaml_on_one_line(text):
    line = quoted(text)
    assert line.isprintable()
    assert yaml.safe_load(f"name: {line}\nother: 1") == {"name": text, "other": 1}


def test_notes_must_be_named(problem, tmp_path):
    with pytest.raises(TypeError, match="notes must be a mapping such as"):
        problem.save_adapter(problem.x0, tmp_path / "adapter", notes="found by chance")
    assert not list(tmp_path.iterdir())
