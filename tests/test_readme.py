"""Every Python block of the README runs as it stands."""

import re

import pytest

from tests.documents import ROOT, blocks, run_block

README = ROOT / "README.md"


def test_readme_has_blocks():
    assert len(blocks(README)) >= 4


@pytest.mark.parametrize("number", range(len(blocks(README))))
def test_block_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block(README, number)


def test_commands_named_in_the_readme_exist():
    text = README.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)", text)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for path in set(re.findall(r"`(examples/[\w.]+|llm_problem/[\w./]+/)`", text)):
        assert (ROOT / path).exists(), path
