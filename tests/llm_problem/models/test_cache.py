"""The cache folder: filled once, by one process, completely or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_problem.models.cache import cache_dir, folder_made_once

BUILDER = """
import os, sys, time
from pathlib import Path
import importlib.util

# The module alone: the package would import torch.
spec = importlib.util.spec_from_file_location("cache", sys.argv[1])
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)

def build(folder):
    with open(os.environ["BUILDS"], "a") as file:
        file.write(f"{os.getpid()}\\n")
    (folder / "one").write_text("1")
    time.sleep(float(os.environ["SECONDS"]))
    (folder / "two").write_text("2")

print(sorted(p.name for p in cache.folder_made_once("thing", build).iterdir()))
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def start(root, tmp_path, monkeypatch):
    """Start a process that builds the folder `thing`; `builds` lists who did."""
    processes = []
    module = sys.modules[folder_made_once.__module__].__file__

    def start(seconds):
        environment = {**os.environ, "BUILDS": str(tmp_path / "builds"), "SECONDS": str(seconds)}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", BUILDER, module],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def names(root):
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_variable_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PROBLEM_CACHE", "relative")
    assert cache_dir() == tmp_path / "relative"
    monkeypatch.setenv("LLM_PROBLEM_CACHE", "~/models")
    assert cache_dir() == Path.home() / "models"
    assert not (tmp_path / "here").exists()  # asking makes nothing


def test_without_the_variable_it_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("LLM_PROBLEM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "llm-problem"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "llm-problem"
    monkeypatch.setenv("LLM_PROBLEM_CACHE", "")
    assert cache_dir() == Path.home() / ".cache" / "llm-problem"


def test_a_folder_is_built_once_and_readable_by_all(root):
    calls = []

    def build(folder):
        calls.append(folder)
        assert not list(folder.iterdir())
        (folder / "file").write_text("content")

    assert folder_made_once("thing", build) == folder_made_once("thing", build) == root / "thing"
    assert len(calls) == 1
    assert names(root) == ["thing"]
    assert (root / "thing" / "file").read_text() == "content"
    assert (root / "thing").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_build_leaves_nothing_and_can_be_tried_again(root, error):
    def fail(folder):
        (folder / "file").write_text("half")
        raise error("stop")

    with pytest.raises(error, match="stop"):
        folder_made_once("thing", fail)
    assert names(root) == []
    assert folder_made_once("thing", lambda folder: (folder / "file").write_text("whole")).is_dir()


def test_processes_that_start_at_once_build_once(start, root, tmp_path):
    processes = [start(0.5) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [out.strip() for out, _ in outputs] == ["['one', 'two']"] * 3
    assert len((tmp_path / "builds").read_text().split()) == 1
    assert names(root) == ["thing"]


def test_who_waits_is_told(start, tmp_path):
    start(1.0)
    wait_for((tmp_path / "builds").exists)
    waiting = start(0)
    out, err = waiting.communicate(timeout=60)
    assert out.strip() == "['one', 'two']"
    assert err == "llm-problem: another process is preparing thing; waiting for it\n"


def test_what_a_killed_process_leaves_is_not_taken_and_cleared_away(start, root, tmp_path):
    process = start(60)
    wait_for(lambda: list(root.glob("thing.part-*/one")))
    assert not (root / "thing").exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    out, _ = start(0).communicate(timeout=60)
    assert out.strip() == "['one', 'two']"
    assert names(root) == ["thing"]
    assert len((tmp_path / "builds").read_text().split()) == 2


def test_an_unwritable_cache_says_where(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM_PROBLEM_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        folder_made_once("thing", lambda folder: None)
