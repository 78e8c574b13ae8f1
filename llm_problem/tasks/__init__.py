"""Tasks: what a model is asked, and the loss of its answers."""

from llm_problem.tasks.base import Task
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.classification import Classification
from llm_problem.tasks.data import Data
from llm_problem.tasks.language_modelling import LanguageModelling
from llm_problem.tasks.multiple_choice import MultipleChoice

TASKS: dict[str, type[Task]] = {cls.kind: cls for cls in (Classification, LanguageModelling, MultipleChoice)}

__all__ = ["TASKS", "Classification", "Data", "LanguageModelling", "MultipleChoice", "Task", "TokenBatch"]
