"""Run comparison studies: `compare`."""

from llm_problem_adapters.study.compare import Comparison, compare

__all__ = ["Comparison", "compare"]
