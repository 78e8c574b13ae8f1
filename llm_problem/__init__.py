"""The loss of a language model as a black-box problem that any optimizer can take.

    import llm_problem as lp

    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    problem(problem.x0)          # x = 0 is the pretrained model
    f = problem.to_nevergrad()   # or problem.to_pymoo()

Importing loads no model and fetches nothing.
"""

from llm_problem import study, subspaces, suites, tasks
from llm_problem.problem import Problem
from llm_problem.registry import get_spec, list_problems, make, register
from llm_problem.spec import ProblemSpec
from llm_problem.suites import named as _named

__version__ = "0.1.0"
__all__ = [
    "Problem",
    "ProblemSpec",
    "get_spec",
    "list_problems",
    "make",
    "register",
    "study",
    "subspaces",
    "suites",
    "tasks",
]

_named.register_all()
