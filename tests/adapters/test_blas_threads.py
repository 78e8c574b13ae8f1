"""numpy's threads are few while an optimizer runs, and as many as before afterwards."""

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from llm_problem_adapters import minimize
from llm_problem_adapters.blas_threads import one_blas_thread


def threads():
    return [c.get_num_threads() for c in ThreadpoolController().lib_controllers if c.internal_api == "openblas"]


def test_one_thread_inside_and_as_before_outside():
    before = threads()
    assert before, "numpy here has no OpenBLAS: nothing to test"
    with pytest.raises(KeyError), one_blas_thread():
        assert threads() == [1] * len(before)
        raise KeyError
    assert threads() == before


def test_minimize_runs_in_it():
    class Problem:
        dimension, x0, sigma = 3, np.zeros(3), 1.0
        bounds = -5 * np.ones(3), 5 * np.ones(3)
        seen: list[list[int]] = []  # noqa: RUF012

        def evaluate(self, X):
            self.seen.append(threads())
            return (X**2).sum(axis=1)

    before = threads()
    minimize(Problem(), "cma", 20)
    assert all(n == 1 for counts in Problem.seen for n in counts)
    assert threads() == before
