"""Tasks: what a model is asked, and the loss of its answers."""

from llm_problem.tasks.base import Task
from llm_problem.tasks.batch import TokenBatch
from llm_problem.tasks.classification import Classification
from llm_problem.tasks.data import Data
from llm_problem.tasks.generation import Generation
from llm_problem.tasks.language_modelling import LanguageModelling
from llm_problem.tasks.multiple_choice import MultipleChoice
from llm_problem.tasks.question_answering import QuestionAnswering
from llm_problem.tasks.scorer import Scorer
from llm_problem.tasks.translation import Translation

TASKS: dict[str, type[Task]] = {
    cls.kind: cls
    for cls in (Classification, Generation, LanguageModelling, MultipleChoice, QuestionAnswering, Translation)
}

__all__ = [
    "TASKS",
    "Classification",
    "Data",
    "Generation",
    "LanguageModelling",
    "MultipleChoice",
    "QuestionAnswering",
    "Scorer",
    "Task",
    "TokenBatch",
    "Translation",
]
