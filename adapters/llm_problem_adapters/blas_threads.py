"""Keep numpy's threads from standing in the way of torch's.

OpenBLAS, which numpy and scipy bring along, keeps its threads spinning for a while after every product. Where an
optimizer multiplies matrices between evaluations (CMA-ES does), they take the cores that torch's threads need: on two
cores an evaluation of 4.3 ms then took 7.8 ms. An optimizer's own products are small, so one thread serves them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread for every OpenBLAS in the process but one that torch itself may use; restored afterwards."""
    found = [
        library
        for library in ThreadpoolController().lib_controllers
        if library.internal_api == "openblas" and "torch" not in library.filepath
    ]
    before = [library.get_num_threads() for library in found]
    try:
        for library in found:
            library.set_num_threads(1)
        yield
    finally:
        for library, threads in zip(found, before, strict=True):
            library.set_num_threads(threads)
