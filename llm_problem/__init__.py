"""The loss of a language model as a black-box problem that any optimizer can take.

    import llm_problem as lp

    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    problem(problem.x0)          # x = 0 is the pretrained model
    f = problem.to_nevergrad()   # or problem.to_pymoo()

Importing loads no model and fetches nothing; torch comes in with the first name that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_problem import study, subspaces, suites, tasks
    from llm_problem.problem import Problem
    from llm_problem.registry import get_spec, list_problems, make, register
    from llm_problem.spec import ProblemSpec
    from llm_problem.workers import WorkerPool

__version__ = "0.1.0"
__all__ = [
    "Problem",
    "ProblemSpec",
    "WorkerPool",
    "get_spec",
    "list_problems",
    "make",
    "register",
    "study",
    "subspaces",
    "suites",
    "tasks",
]

_MODULES = {"study", "subspaces", "suites", "tasks"}
_LATER = {"Problem": "problem", "ProblemSpec": "spec", "WorkerPool": "workers"}
_LATER |= dict.fromkeys(("get_spec", "list_problems", "make", "register"), "registry")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
