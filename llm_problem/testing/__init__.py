"""Conformance checks for your own subspaces, problems and optimizers.

    from llm_problem.testing import check_subspace

    check_subspace(MySubspace(rank=4), model="tiny-gpt2")

Each raises a `BrokenPromiseError`, an AssertionError, that names the first promise it finds broken, and returns None
where all hold. What passes works with every evaluator, optimizer and worker process here.
"""

from llm_problem.testing.optimizers import check_optimizer
from llm_problem.testing.problems import check_problem
from llm_problem.testing.promises import BrokenPromiseError
from llm_problem.testing.subspaces import check_subspace

__all__ = ["BrokenPromiseError", "check_optimizer", "check_problem", "check_subspace"]
