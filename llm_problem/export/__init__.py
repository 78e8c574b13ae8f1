"""The way home: a point of the search as a PEFT adapter or as a whole model that other tools load."""

from llm_problem.export.adapter import adapter_of, instead_of_a_model, require_mergeable, write_adapter
from llm_problem.export.card import HeldOut, model_card
from llm_problem.export.model import SharedTensorsError, save_model
from llm_problem.export.point import Adapter, Point

__all__ = [
    "Adapter",
    "HeldOut",
    "Point",
    "SharedTensorsError",
    "adapter_of",
    "instead_of_a_model",
    "model_card",
    "require_mergeable",
    "save_model",
    "write_adapter",
]
