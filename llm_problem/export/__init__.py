"""The way home: a point of the search as a PEFT adapter or as a whole model that other tools load."""

from llm_problem.export.card import model_card
from llm_problem.export.model import save_model
from llm_problem.export.peft_adapter import save_adapter

__all__ = ["model_card", "save_adapter", "save_model"]
