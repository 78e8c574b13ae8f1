"""Runs and studies: folders, statistics, pictures, reports.

`Study` says what a comparison is; `llm_problem_adapters.compare` runs one, `results` reads what came of it, and
`report` writes it up.
"""

from llm_problem.study.config import Competitor, Policy, Study

__all__ = ["Competitor", "Policy", "Study"]
