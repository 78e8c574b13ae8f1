"""Models: loading them once, and naming the weights inside them."""

from llm_problem.models.loading import LoadedModel, forget_models, load_model, named_models
from llm_problem.models.targets import Target, find_targets

__all__ = ["LoadedModel", "Target", "find_targets", "forget_models", "load_model", "named_models"]
