"""What a run survives, tried and counted: `python -m llm_problem_adapters.faults [--quick] [PART …]`."""
