"""Nevergrad's `Experiment` and its registry of experiment plans, without the rest of its benchmark package.

`import nevergrad.benchmark` imports every benchmark function that Nevergrad has, and with them cv2, gym and more; what
runs and describes an experiment (`nevergrad.benchmark.xpbase`) needs none of them.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

try:
    import nevergrad
except ImportError as error:
    raise ImportError("Nevergrad is needed for this: pip install nevergrad") from error

PACKAGE = "nevergrad.benchmark"


def experiments() -> ModuleType:
    """The module `nevergrad.benchmark.xpbase`: the one of the whole package where that is imported already."""
    if PACKAGE in sys.modules:
        return importlib.import_module(f"{PACKAGE}.xpbase")
    # A package of its name and place, for as long as the import lasts: one imported later takes over its modules.
    package = ModuleType(PACKAGE)
    package.__path__ = [str(Path(nevergrad.__file__).parent / "benchmark")]
    sys.modules[PACKAGE] = package
    try:
        module = importlib.import_module(f"{PACKAGE}.xpbase")
    finally:
        del sys.modules[PACKAGE]
    if not hasattr(module, "torch"):  # it seeds torch, which it gets from a file that needs gym
        import torch

        module.torch = torch  # type: ignore[attr-defined]
    return module
