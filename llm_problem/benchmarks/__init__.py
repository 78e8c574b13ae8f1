"""Measurements that anyone can run: `python -m llm_problem.benchmarks`."""
