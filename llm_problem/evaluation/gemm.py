"""Frozen matrix products by the faster of the libraries at hand.

torch multiplies by MKL or OpenBLAS; oneDNN, which torch brings along, can keep a weight in a layout of its own and is
then more than twice as fast on some machines (AMD with AVX-512) and no faster on others. Its operators are private in
torch: they are probed, and without them everything goes through torch.

Which library is faster is measured once per machine, number of threads and shape, and remembered in the cache folder,
so that every process computes the same bits.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.nn.functional import linear

from llm_problem.models.cache import cache_dir

LIBRARIES = ("torch", "onednn")
CHOICES = "matrix-products.json"
LAYOUT_ROWS = 512  # oneDNN picks its layout for this many rows; one layout serves every number of them
_GAIN = 1.05  # oneDNN must be this many times as fast: copies of the weights are not free
_lock = threading.Lock()
_measured: dict[str, str] = {}


class FrozenLinear:
    """y = x Wᵀ + b for a frozen W (N, K) and b (N,) or None.

    `nbytes` is the memory of a packed copy, 0 where the model's own tensor is used.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, library: str) -> None:
        self.outputs, self.inputs = weight.shape
        self.dtype, self.library, self.bias = weight.dtype, library, bias
        if library == "onednn":
            self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), LAYOUT_ROWS)
            self.nbytes = weight.numel() * weight.element_size()
        else:
            self._weight, self.nbytes = weight, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(M, N) of x (M, K); computed in the weight's precision, answered in that of x."""
        low = x.to(self.dtype)
        if self.library == "onednn":
            y = torch.ops.mkldnn._linear_pointwise(low, self._weight, self.bias, "none", [], "")
        else:
            y = linear(low, self._weight, self.bias)
        return y.to(x.dtype)


class WeightStore:
    """The packed weights of one model, shared by all problems on it while any of them uses them.

    Args:
        limit: bytes of packed copies; what would pass it is left in the model's own layout.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.left_out = 0  # weights that did not fit
        self._kept: weakref.WeakValueDictionary[Any, FrozenLinear] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Memory of all packed copies now."""
        return sum(packed.nbytes for packed in list(self._kept.values()))

    def get(
        self,
        key: Any,
        shape: tuple[int, int],
        like: torch.Tensor,
        build: Callable[[], tuple[torch.Tensor, torch.Tensor | None]],
        rows: int,
        precision: torch.dtype | None = None,
    ) -> FrozenLinear:
        """The packed weight `key` (which must change when the weight does), built where it is not there.

        Args:
            key: hashable.
            shape: (N, K).
            like: has the weight's precision and device.
            build: gives the weight (N, K) and the bias (N,) or None.
            rows: M of the products to come, for the choice of the library.
            precision: of the product, None for that of the weight.
        """
        with self._lock:
            outputs, inputs = shape
            library = fastest_library(rows, inputs, outputs, precision or like.dtype, like.device)
            # By the library too, which follows from the rows: what another problem packed must not decide bits here.
            key = (key, precision, library)
            found = self._kept.get(key)
            if found is not None:
                return found
            weight, bias = build()
            if precision is not None:
                weight, bias = weight.to(precision), None if bias is None else bias.to(precision)
            size = weight.numel() * weight.element_size()
            if library == "onednn" and self.nbytes + size > self.limit:
                library, self.left_out = "torch", self.left_out + 1
            packed = self._kept[key] = FrozenLinear(weight, bias, library)
            return packed


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """What activations are computed in for weights of this precision: single, or double where the weights are."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_stores: weakref.WeakKeyDictionary[Any, WeightStore] = weakref.WeakKeyDictionary()


def weight_store(owner: Any, limit: int) -> WeightStore:
    """The store of one model; `limit` is raised to that of the problem that allows most."""
    with _lock:
        store = _stores.setdefault(owner, WeightStore(limit))
        store.limit = max(store.limit, limit)
        return store


def fastest_library(rows: int, inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the faster library for products (rows, inputs) · (inputs, outputs)."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16) or not onednn_works(dtype):
        return "torch"
    rows = 1 << max(rows - 1, 1).bit_length()  # up to twice as many behave alike
    rows = min(max(rows, 16), 1024)
    key = f"{rows}x{inputs}x{outputs} {str(dtype).removeprefix('torch.')} {torch.get_num_threads()} threads"
    with _lock:
        if key not in _measured:
            _measured.update(_remembered(key, lambda: _measure(rows, inputs, outputs, dtype)))
        return _measured[key]


@functools.cache
def onednn_works(dtype: torch.dtype) -> bool:
    """Whether torch's private oneDNN operators are here and multiply right."""
    try:
        generator = torch.Generator().manual_seed(0)
        x, w = (torch.randn(size, generator=generator).to(dtype) for size in ((32, 48), (64, 48)))
        bias = torch.ones(64, dtype=dtype)
        found = FrozenLinear(w, bias, "onednn")(x)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    tolerance = 1e-4 if dtype == torch.float32 else 0.5
    return bool(torch.allclose(found.float(), x.float() @ w.float().T + 1, atol=tolerance))


def machine() -> str:
    """What the speed of a product depends on: processor and version of torch."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    model = facts.get("model name", model)
    vectors = [
        flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if flag in facts.get("flags", "").split()
    ]
    return f"{model} {' '.join(vectors)}, torch {torch.__version__}"


def _measure(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> str:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((outputs, inputs), generator=generator).to(dtype)
    x = torch.randn((rows, inputs), generator=generator).to(dtype)
    contestants = {library: FrozenLinear(weight, None, library) for library in LIBRARIES}
    taken: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    with torch.inference_mode():
        for turn in range(6):
            for library, product in contestants.items():
                started = time.perf_counter()
                product(x)
                if turn:  # the first one warms up
                    taken[library].append(time.perf_counter() - started)
    return "onednn" if min(taken["onednn"]) * _GAIN < min(taken["torch"]) else "torch"


def _remembered(key: str, measure: Callable[[], str]) -> dict[str, str]:
    """What is known for this machine, `key` included: read from the cache folder, or measured and written there."""
    path = cache_dir() / CHOICES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(path) + ".lock", timeout=60):
            known = _read(path)
            here = known.setdefault(machine(), {})
            if here.get(key) not in LIBRARIES:
                here[key] = measure()
                _write(path, known)
            return {name: library for name, library in here.items() if library in LIBRARIES}
    except (OSError, Timeout):  # a cache folder that cannot be written: this process alone remembers
        return {key: measure()}


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    fits = isinstance(known, dict) and all(isinstance(value, dict) for value in known.values())
    return known if fits else {}


def _write(path: Path, known: dict[str, dict[str, str]]) -> None:
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1, sort_keys=True)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
