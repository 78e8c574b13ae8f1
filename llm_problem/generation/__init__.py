"""Generation: the text that a model writes after a prompt, for a candidate's weights."""

from llm_problem.generation.decoding import Decoding

__all__ = ["Decoding"]
