"""The tests that docs/promises.md names are there and are run by the name of its line, and every line has some."""

import ast
import re
import subprocess
import sys

import pytest

from tests.documents import ROOT, promises

LINES = promises()


def test_there_are_fifteen_lines():
    assert list(LINES) == list(range(1, 16))


@pytest.mark.parametrize("line", LINES)
def test_every_test_that_is_named_exists(line):
    assert LINES[line]
    assert len(set(LINES[line])) == len(LINES[line])
    for file, name in LINES[line]:
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_every_test_that_is_named_for_a_line_is_in_the_table():
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, line in re.findall(r"^def (test_item_(\d+)_\w+)", path.read_text("utf-8"), flags=re.M):
            assert (str(path.relative_to(ROOT / "tests")), name) in LINES[int(line)], name


def test_a_line_is_run_by_its_number():
    """In a file that holds other tests too."""
    file = "llm_problem/test_nevergrad_scores.py"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "promise(line=5)", f"tests/{file}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert set(re.findall(r"::(\w+)", done.stdout)) == {name for of, name in LINES[5] if of == file}, done.stdout


def test_the_numpy_that_is_declared_is_the_one_that_the_page_speaks_of():
    (declared,) = re.findall(r'"(numpy[^"]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert f"`{declared}` is declared" in (ROOT / "docs" / "promises.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert {f"tests/{file}" for file, _ in LINES[1]} <= set(re.findall(r"tests/[\w/.]+", makefile))
