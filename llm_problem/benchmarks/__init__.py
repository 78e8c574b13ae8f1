"""Measurements that anyone can run: `python -m llm_problem.benchmarks [SECTIONS]`.

Everything that is compared takes turns in one run; figures are medians with their quartiles, ratios are taken turn by
turn, and the losses of all who take part are compared.
"""
