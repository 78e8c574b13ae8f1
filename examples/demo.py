"""The demo: six optimizers on SmolLM2-135M, with the embedded sentiment sentences.

Run by `make demo`. The same as the command it prints; needs some minutes on two cores, and fetches the model at the
first run.
"""

import shlex
import sys

from llm_problem.cli import main

PROBLEM = "smollm2-135m-sentiment-lora-xs-d64-v1"
OPTIMIZERS = [
    "genetic-algorithm",
    "simulated-annealing",
    "particle-swarm",
    "nevergrad:TwoPointsDE",
    "pymoo:DE",
    "cma",
]
BUDGET = 2000

if __name__ == "__main__":
    command = ["run", PROBLEM, "--optimizer", *OPTIMIZERS, "--budget", str(BUDGET), "--seed", "1", *sys.argv[1:]]
    print(f"$ llm-problem {shlex.join(command)}", flush=True)
    sys.exit(main(command))
