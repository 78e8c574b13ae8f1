"""Runs and studies: folders, statistics, pictures, reports.

`Study` says what a comparison is; `llm_problem_adapters.study.compare` runs one, `read` reads what came of it, and
`write_report` writes it up.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llm_problem.study.config import Competitor, Policy, Study

if TYPE_CHECKING:
    from llm_problem.study.results import Results, read
    from llm_problem.study.study_report import Report, write_report

__all__ = ["Competitor", "Policy", "Report", "Results", "Study", "read", "write_report"]

_LATER = {"Results": "results", "read": "results", "Report": "study_report", "write_report": "study_report"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
