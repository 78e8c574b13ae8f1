"""The same run on one process and on two actors of a Ray cluster: `python ray_script.py [HOST:PORT]`.

Without an address a cluster is started on this machine and ended with the run. Needs `pip install 'llm-problem[ray]'`.
"""

import sys

import numpy as np

import llm_problem as lp
from llm_problem_adapters import minimize
from llm_problem_adapters.ray_pool import RayPool


def main(address=None):
    problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1")
    with RayPool(problem, 2, address=address) as pool:
        result = minimize(problem, "genetic-algorithm", budget=200, seed=1, workers=pool)
    print(f"pretrained:  {problem(problem.x0):.4f} nats per token")
    print(f"two actors:  {result.loss:.4f} nats per token")
    alone = minimize(problem, "genetic-algorithm", budget=200, seed=1)
    print(f"one process: {alone.loss:.4f} nats per token, the same run: {np.array_equal(result.losses, alone.losses)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
