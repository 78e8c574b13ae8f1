"""The plan of the house: who may import whom, and what the sources may hold."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBLEM_SIDE = sorted((ROOT / "llm_problem").rglob("*.py"))
SOURCES = [
    *PROBLEM_SIDE,
    *sorted((ROOT / "adapters").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "tests").rglob("*.py")),
]
NAMES = [str(path.relative_to(ROOT)) for path in SOURCES]


def imported(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            yield ".".join((*package, node.module or "")).rstrip(".")


def imports_in(folder):
    """(file, module) for every import of the package below a folder of llm_problem."""
    return [
        (str(path.relative_to(ROOT)), module)
        for path in sorted((ROOT / "llm_problem" / folder).rglob("*.py"))
        for module in imported(path)
    ]


def test_there_are_sources_to_look_at():
    assert len(PROBLEM_SIDE) > 20
    assert ROOT / "llm_problem" / "problem.py" in PROBLEM_SIDE


def test_the_problem_side_never_imports_the_adapters():
    guilty = {
        str(path.relative_to(ROOT))
        for path in PROBLEM_SIDE
        for module in imported(path)
        if module.split(".")[0] in ("llm_problem_adapters", "adapters")
    }
    assert guilty <= {"llm_problem/cli.py"}


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("models", ("tasks", "subspaces", "evaluation", "problem", "spec", "registry", "study", "suites")),
        ("tasks", ("subspaces", "evaluation", "problem", "spec", "registry", "study", "suites")),
        ("subspaces", ("tasks", "evaluation", "problem", "spec", "registry", "study", "suites")),
        ("evaluation", ("problem", "spec", "registry", "study", "suites")),
    ],
)
def test_data_flows_one_way(room, forbidden):
    assert not [
        (path, module)
        for path, module in imports_in(room)
        if module.startswith(tuple(f"llm_problem.{f}" for f in forbidden))
    ]


@pytest.mark.parametrize("library", ["nevergrad", "pymoo", "cma", "ioh", "optuna"])
def test_an_optimization_library_is_imported_in_one_file_of_the_problem_side(library):
    files = {path.name for path in PROBLEM_SIDE for module in imported(path) if module.split(".")[0] == library}
    assert files <= {f"{library}_{face}.py" for face in ("function", "problem", "objective")}


def test_importing_loads_no_optimization_library_no_model_and_no_network():
    code = """
import socket, sys
class Refused(socket.socket):
    def connect(self, *args):
        raise AssertionError(f"a connection to {args}")
socket.socket = Refused
import llm_problem as lp
assert lp.list_problems()
for name in ("nevergrad", "pymoo", "cma", "ioh", "optuna", "llm_problem_adapters", "pandas", "matplotlib"):
    assert name not in sys.modules, name
for name in ("pip", "gguf", "requests"):
    assert name not in sys.modules, name
loaded = [name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name]
assert not loaded, loaded
from llm_problem.models import loading
assert not loading._loaded and not loading._latest
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_sources_name_no_place_on_a_machine(path):
    text = path.read_text(encoding="utf-8")
    folders = "|".join(("work", "tmp", "home", "root", "Users", "mnt"))
    assert not re.findall(rf"""["' =(]/(?:{folders})/[\\w.]+""", text)


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_sources_say_what_they_are(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body or path.name == "__main__.py"


def requirements():
    """extra (or "" for what is always installed) → names of the packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [re.match(r"[\w-]+", line)[0] for line in lines] for extra, lines in groups.items()}


def test_whatever_is_installed_by_name_has_a_tested_version():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if not line.startswith("#")}
    wanted = {name.lower().replace("_", "-") for names in requirements().values() for name in names}
    assert wanted - pinned == {"pip"}  # which is there before the constraints are


def test_whatever_is_always_installed_is_imported_by_somebody():
    modules = {module.partition(".")[0] for path in SOURCES if "tests" not in path.parts for module in imported(path)}
    assert set(requirements()[""]) <= modules
