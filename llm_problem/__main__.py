import sys

from llm_problem.cli import main

sys.exit(main())
