"""The figures of a study's report, each a matplotlib figure; `drawing.save` writes PNG and PDF."""

from llm_problem.study.figures.convergence import convergence, share_curves
from llm_problem.study.figures.drawing import save
from llm_problem.study.figures.matrices import correlation_matrix, share_matrix
from llm_problem.study.figures.ranks import critical_difference
from llm_problem.study.figures.runtimes import ecdf_figure, profile_figure

__all__ = [
    "convergence",
    "correlation_matrix",
    "critical_difference",
    "ecdf_figure",
    "profile_figure",
    "save",
    "share_curves",
    "share_matrix",
]
