import sys

from llm_problem_adapters.parallel.command import main

sys.exit(main())
