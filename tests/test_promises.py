"""The tests that docs/promises.md names are there, and every line has some."""

import ast
import re

import pytest

from tests.documents import ROOT

SHORT = {"nevergrad": "llm_problem/test_nevergrad_scripts.py", "pymoo": "llm_problem/test_pymoo_scripts.py"}
LINES = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", (ROOT / "docs" / "promises.md").read_text("utf-8"), flags=re.M)


def test_there_are_fifteen_lines():
    assert [int(number) for number, _ in LINES] == list(range(1, 16))


@pytest.mark.parametrize(("number", "tests"), LINES, ids=[number for number, _ in LINES])
def test_every_test_that_is_named_exists(number, tests):
    named = re.findall(r"`([\w/.]+)::(test_\w+)`", tests)
    assert named
    for file, name in named:
        tree = ast.parse((ROOT / "tests" / SHORT.get(file, file)).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"
