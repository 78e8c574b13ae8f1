"""What all tests share: the real models, the data beside the repository, and settings that make runs repeatable."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported; no test may need the hub
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is: threads that wait leave busy cores to others

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from llm_problem.models import load_model

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS.parent))  # tests share files, such as tests.llm_problem.subspace_examples
from tests.documents import promises  # noqa: E402

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
torch.set_num_threads(1)  # the models are small, and threads on busy cores wait for each other

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before `-m "not real"` picks
def pytest_collection_modifyitems(items):
    held = {}  # by a test: lines of docs/promises.md
    for line, tests in promises().items():
        for file, name in tests:
            held.setdefault((TESTS / file, name), []).append(line)
    for item in items:
        if "smollm2" in getattr(item, "fixturenames", ()):
            item.add_marker("real")
        for line in held.get((item.path, getattr(item, "originalname", None)), ()):
            item.add_marker(pytest.mark.promise(line=line))


@pytest.fixture(scope="session")
def tiny_gpt2():
    return load_model("tiny-gpt2")


@pytest.fixture(scope="session")
def tiny_bert():
    return load_model("tiny-bert")


@pytest.fixture(scope="session")
def smollm2():
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of public data sets beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the data sets beside the repository (../shared/data) are not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def sst2(shared_data):
    """The folder of SST-2: train.csv, dev.csv, test.csv with the columns text and label."""
    folder = shared_data / "sst2"
    if not folder.is_dir():
        pytest.skip("SST-2 (../shared/data/sst2) is not here")
    return folder
