"""An ordinary pymoo script: only the problem is another one."""

from pymoo.algorithms.soo.nonconvex.pso import PSO
from pymoo.optimize import minimize

import llm_problem as lp

problem = lp.make("tiny-gpt2-prose-lora-xs-d32-v1").to_pymoo()
result = minimize(problem, PSO(), ("n_eval", 300), seed=1)

print(f"pretrained: {problem.problem(problem.problem.x0):.4f} nats per token")
print(f"PSO:        {result.F[0]:.4f} nats per token")
