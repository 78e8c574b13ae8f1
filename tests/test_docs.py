"""Every Python block of the pages in docs runs as it stands, and every command is one that there is."""

import importlib.util
import re
from unittest.mock import patch

import pytest

from llm_problem.subspaces import SUBSPACES
from tests.documents import ROOT, blocks, run_block

PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL = [(page, number) for page in PAGES for number in range(len(blocks(page)))]


def test_there_are_pages():
    assert {"nevergrad.md", "pymoo.md"} <= {page.name for page in PAGES}
    assert all(len(blocks(page)) >= 8 for page in PAGES if page.name in ("nevergrad.md", "pymoo.md"))


@pytest.mark.parametrize(("page", "number"), ALL, ids=[f"{page.stem}-{number + 1}" for page, number in ALL])
def test_block_runs(page, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with patch.dict(SUBSPACES):  # a page registers one of its own
        run_block(page, number)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_modules_and_plans_that_are_named_exist(page):
    from llm_problem_adapters.nevergrad_plans import xpbase

    text = page.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m (llm_problem[\w.]*)", text)):
        assert importlib.util.find_spec(module) is not None, module
    for plan in set(re.findall(r"\bllm_problem_(?!adapters)\w+", text)):
        assert plan in xpbase.registry, plan


def test_a_run_that_a_page_leaves_behind_is_taken_up_again(tmp_path, monkeypatch, capsys):
    """The blocks that stop and go on find their own file the second time, and have nothing left to do."""
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            if "os.replace" in block:
                run_block(page, number)
                left = {path: path.read_bytes() for path in tmp_path.iterdir()}
                first = capsys.readouterr().out
                run_block(page, number)
                assert left and {path: path.read_bytes() for path in tmp_path.iterdir()} == left
                assert capsys.readouterr().out == first
