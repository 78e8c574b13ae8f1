"""Evaluators: from weights changed as x says to the log-probabilities that a task reads."""

from llm_problem.evaluation.choice import EVALUATORS, choose_evaluator
from llm_problem.evaluation.encoder_decoder import EncoderDecoderEvaluator
from llm_problem.evaluation.replay import NotReplayableError, ReplayEvaluator
from llm_problem.evaluation.serial import SerialEvaluator

__all__ = [
    "EVALUATORS",
    "EncoderDecoderEvaluator",
    "NotReplayableError",
    "ReplayEvaluator",
    "SerialEvaluator",
    "choose_evaluator",
]
