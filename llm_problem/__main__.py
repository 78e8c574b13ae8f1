"""`python -m llm_problem`: the command."""

from llm_problem.cli import entry

entry()
