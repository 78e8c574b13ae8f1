"""The way home: a point of the search as a PEFT adapter or as a whole model that other tools load."""

from llm_problem.export.adapter import adapter_of, require_mergeable, write_adapter
from llm_problem.export.card import HeldOut, model_card
from llm_problem.export.model import save_model
from llm_problem.export.point import Adapter, Point

__all__ = [
    "Adapter",
    "HeldOut",
    "Point",
    "adapter_of",
    "model_card",
    "require_mergeable",
    "save_model",
    "write_adapter",
]
