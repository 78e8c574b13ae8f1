"""README.md of what is exported: hubs can read it, its code runs, and nothing in it can break out of its place."""

import copy
import dataclasses
import re

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt  # comes with rich

import llm_problem as lp
from llm_problem.export.card import _code, model_card, quoted
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
    held_out = {"test": ({"loss": 2.5, "a|b": 1.0}, {"loss": 0.25, "a|b": np.inf})}
    notes = {"optimizer": "cma", "evaluations": np.int64(30), "lengths": {"x": [1, 2]}, "why": r"a `b` \c"}
    problem.save_adapter(x, tmp_path / "adapter", notes=notes, held_out=held_out)
    front, body = split((tmp_path / "adapter" / "README.md").read_text(encoding="utf-8"))
    assert front == {"library_name": "peft", "tags": ["llm-problem", "gradient-free", "lora"]}
    for line in (
        f"| search | loss | {problem(problem.x0):.6g} | {problem(x):.6g} |",
        "| test | loss | 2.5 | 0.25 |",
        r"| test | a\|b | 1 | inf |",
        "- optimizer: `cma`",
        "- evaluations: `30`",
        "- lengths: x `[1, 2]`",
        r"- why: `` a `b` \c ``",
        f"- data sha256: `{problem.spec.task.data.sha256}`",
        f"- fingerprint: `{problem.fingerprint}`",
        "- dimension: `8`",
        "- seed: `4`",
    ):
        assert f"\n{line}\n" in body, line
    problem.save_model(x, tmp_path / "model")
    front, body = split((tmp_path / "model" / "README.md").read_text(encoding="utf-8"))
    assert front["library_name"] == "transformers"
    assert "| test |" not in body and "How it was found" not in body  # only what the caller tells


def test_card_says_in_what_precision_its_losses_were_read(text_task, tmp_path):
    subspace = lp.subspaces.LoRAXS(2, layers=1)
    for dtype in ("float32", "bfloat16"):
        problem = lp.Problem("tiny-gpt2", text_task, subspace, dtype=dtype)
        problem.save_adapter(np.ones(problem.dimension), tmp_path / dtype)
        card = (tmp_path / dtype / "README.md").read_text(encoding="utf-8")
        assert card.count("with matrix products in bfloat16: loaded as below") == (dtype == "bfloat16")


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
        assert re.search(r"^It stands before every text where `[ Ww]+ell then *` stood", body, flags=re.MULTILINE)
        assert "| split | metric | prompted, not searched | this adapter |" in body
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
    plain = structure_of(problem, tmp_path / "plain", {"note": "text", "notes": {"a": 1}})
    assert plain == structure_of(problem, tmp_path / "hostile", {HOSTILE: HOSTILE, "note": {HOSTILE: HOSTILE * 50}})


def structure_of(problem, folder, notes):
    """Which blocks a reader of Markdown finds, and which kinds of text in them."""
    problem.save_adapter(problem.x0, folder, notes=notes)
    front, body = split((folder / "README.md").read_text(encoding="utf-8"))
    assert set(front) == {"library_name", "tags"}
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    assert max(len(token.content) for token in tokens if token.type == "inline") < 3000
    return [(token.type, token.info, {child.type for child in token.children or ()}) for token in tokens]


def test_folder_with_a_hostile_name_keeps_to_its_place(tmp_path, text_task):
    folder = tmp_path / "x\n---\n'a': \"b\" # c"
    lp.make("tiny-gpt2-prose-lora-xs-d32-v1").save_model(np.zeros(32), folder)
    problem = lp.Problem(folder, text_task, lp.subspaces.LoRAXS(1, layers=1))
    problem.save_adapter(problem.x0, tmp_path / "adapter")
    front, body = split((tmp_path / "adapter" / "README.md").read_text(encoding="utf-8"))
    assert set(front) == {"library_name", "tags"}
    (block,) = blocks(body, "python")
    assert repr(str(folder)) in block
    headings = [line for line in outside_blocks(body).splitlines() if line.startswith("#")]
    assert len(headings) == 4 and headings[0].startswith(r"# x\\n---")


def test_a_base_model_is_named_where_a_hub_has_it(problem, tmp_path):
    for model, named in [
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("owner/name", "owner/name"),
        ("tiny-gpt2", None),
        ("object:llama-0123", None),
    ]:
        elsewhere = copy.copy(problem.__dict__)
        other = lp.Problem.__new__(lp.Problem)
        other.__dict__.update(elsewhere, _spec=dataclasses.replace(problem.spec, model=model))
        front, body = split(model_card(other, problem.x0, None, None, None))
        assert front.get("base_model") == named
        assert f"Base model: `{model}`." in body


@pytest.mark.parametrize("text", ["a`b", "``", "`", " a ", "a\\", "```x", "a\nb"])
def test_code_is_read_back_by_markdown(text):
    (inline,) = [token for token in MarkdownIt().parse(f"- name: {_code(text)}") if token.type == "inline"]
    assert [(child.type, child.content) for child in inline.children] == [
        ("text", "name: "),
        ("code_inline", text.replace("\n", "\\n")),
    ]


@given(st.text())
def test_quoted_text_is_read_back_by_yaml_on_one_line(text):
    line = quoted(text)
    assert line.isprintable()
    assert yaml.safe_load(f"name: {line}\nother: 1") == {"name": text, "other": 1}


def test_notes_must_be_named_and_metrics_come_in_pairs(problem, tmp_path):
    with pytest.raises(TypeError, match="notes must be a mapping such as"):
        problem.save_adapter(problem.x0, tmp_path / "adapter", notes="found by chance")
    for held_out in ({"test": {"loss": 1.0}}, [("test", ({}, {}))], {"test": ({"loss": 1.0},)}, 1.0):
        with pytest.raises(TypeError, match="held_out must be a mapping such as"):
            problem.save_model(problem.x0, tmp_path / "model", held_out=held_out)
    assert not list(tmp_path.iterdir())
