"""`python -m llm_problem.benchmarks`: see `runner`."""

import sys

from llm_problem.benchmarks.runner import main

if __name__ == "__main__":
    sys.exit(main())
